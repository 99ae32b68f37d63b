"""The commands: each parses its options, makes one call and reports in one line."""
