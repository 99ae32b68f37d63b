"""File formats: videos, run-length masks and results; numpy only, no torch."""
