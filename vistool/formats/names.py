"""Make safe file names from names of unknown origin."""

from __future__ import annotations

import re

# Bytes of a name; suffixes such as "-partial" or "-2", and those of temporary names, must also fit.
LONGEST = 180
RAW_BYTES = frozenset(map(chr, range(0xDC80, 0xDD00)))  # Python's form of bytes that are not UTF-8
FORBIDDEN = frozenset('/\\:*?"<>|')  # on some system
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|com[¹²³]|lpt[¹²³])(\..*)?", re.IGNORECASE)


def as_file_name(text: str, instead: str = "unnamed") -> str:
    """A name that is valid on every system and cannot lead to another folder.

    Separators and control characters become "_". Dots and spaces at both ends are removed. Names
    that Windows reserves for devices get a "_" in front. Long names are cut. Bytes that are not
    UTF-8, in a name from this disk, stay.

    Args: instead: the name if nothing remains.

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
