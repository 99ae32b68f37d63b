"""Read, write, check, convert and split annotated data sets; no torch."""
