"""Evaluate: a model or saved results, scored against an annotated set."""
