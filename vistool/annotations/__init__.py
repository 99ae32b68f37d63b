"""Annotated data sets: read, written, checked, converted and split. No torch."""
