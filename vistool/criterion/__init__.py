"""Pairing predictions with the truth, and what a model is trained on."""
