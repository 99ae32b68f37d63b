"""Bytes and files: videos in and out, run-length masks, results; numpy only, no torch."""
