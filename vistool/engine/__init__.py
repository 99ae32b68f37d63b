"""The whole jobs: each wires the rooms together, reports through one callback, prints nothing."""
