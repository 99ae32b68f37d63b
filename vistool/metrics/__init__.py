"""How good predicted tracks are, measured against labelled ones."""
