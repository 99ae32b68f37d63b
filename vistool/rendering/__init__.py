"""Overlays, charts and HTML pages of results; torch is not imported."""
