"""What both models are made of: layers that take numbers, not configurations."""
