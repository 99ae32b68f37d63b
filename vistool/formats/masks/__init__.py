"""Masks as run-length codes and as decoded runs."""
