"""Text from files as OpenCV can draw it."""

from __future__ import annotations

from vistool.errors import visible

LONGEST = 200  # characters; a picture as wide as any text would take any memory


def drawable(text: str) -> str:
    """A text that can be drawn: OpenCV crashes on what is no Unicode, as \\udcff."""
    return visible(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")
