"""Names from anywhere as names of files: one function, so that none leads elsewhere."""

from __future__ import annotations

import re

# Of bytes: room is left for "-partial", "-2" and the like, and what a temporary name adds.
LONGEST = 180
RAW_BYTES = frozenset(map(chr, range(0xDC80, 0xDD00)))  # as Python names what is no UTF-8
FORBIDDEN = frozenset('/\\:*?"<>|')  # somewhere
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|com[¹²³]|lpt[¹²³])(\..*)?", re.IGNORECASE)


def as_file_name(text: str, instead: str = "unnamed") -> str:
    """A name that every system takes for one file or folder, in this folder, and shows.

    Separators and control characters become "_"; dots and spaces at both ends go; a name that
    Windows keeps for a device gets a "_" before it; a long one is cut off. Bytes of a name on this
    disk that are no UTF-8 stay.

    Args: instead: where nothing is left.

    >>> as_file_name("street"), as_file_name("..."), as_file_name("../etc"), as_file_name("con.a")
    ('street', 'unnamed', '_etc', '_con.a')
    """
    shown = "".join(c if _is_plain(c) else "_" for c in text)
    name = shown.strip(". ")
    if RESERVED.fullmatch(name):
        name = f"_{name}"
    name = name.encode(errors="surrogateescape")[:LONGEST].decode(errors="surrogateescape")
    return name.rstrip(". ") or instead


def _is_plain(character: str) -> bool:
    return character not in FORBIDDEN and (character.isprintable() or character in RAW_BYTES)
