"""The commands. Each parses its options, makes one call and reports the result."""
