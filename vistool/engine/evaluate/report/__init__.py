"""The report of an evaluation: its content, charts, film strips, page and files."""
