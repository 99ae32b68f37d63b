"""Weight files: read, written, imported from the published checkpoints."""
