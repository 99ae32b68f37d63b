"""Training: settings, the loop, checkpoints, logs and validation."""
