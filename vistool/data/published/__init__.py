"""The papers' own training clips, to the byte."""
