"""Read and write weight files, and import the published checkpoints."""
