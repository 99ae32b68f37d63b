"""The whole jobs: each wires the rooms together, reports through callbacks, prints nothing."""
