"""Measures that compare predicted tracks with labelled ones."""
