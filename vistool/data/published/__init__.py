"""The training clips of the papers, equal to their code byte by byte."""
