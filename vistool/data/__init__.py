"""Annotated pictures and videos as the training batches a model is fed."""
