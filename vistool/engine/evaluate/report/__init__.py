"""The report of an evaluation: content, charts, film strips, page and files."""
