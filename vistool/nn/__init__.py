"""The layers of both models; they take numbers, not configurations."""
