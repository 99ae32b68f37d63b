"""Masks as run-length codes and as runs."""
