"""Training objectives: matching of queries with labelled instances, and loss terms."""
