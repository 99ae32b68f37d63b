"""Videos read and written."""
