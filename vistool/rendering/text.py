"""Conversion of texts from files into texts that OpenCV can draw."""

from __future__ import annotations

from vistool.errors import visible

LONGEST = 200  # characters; a picture for a longer text might not fit into memory


def drawable(text: str) -> str:
    """The text, escaped and cut to `LONGEST`: OpenCV crashes on invalid Unicode such as \\udcff."""
    return visible(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")
