"""Self-contained HTML pages: text, tables and pictures in one file without network requests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, StrictUndefined

from vistool.formats.files import atomic_path


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a place on the page (`#name`) or to a file, relative to the page."""

    text: str
    to: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.to)
        if parts.scheme not in {"", "file"} or parts.netloc:
            raise ValueError(f"a link to another machine: {self.to!r}")


Cell = str | int | float | Link | None  # None: without a value


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of text."""

    text: str
    kind = "paragraph"


@dataclass(frozen=True, slots=True)
class Facts:
    """A list of names with a text for each."""

    rows: Mapping[str, str]
    kind = "facts"


@dataclass(frozen=True, slots=True)
class Numbers:
    """The most important numbers, in large letters."""

    values: Mapping[str, str]
    kind = "numbers"


@dataclass(frozen=True, slots=True)
class Table:
    """A table; with JavaScript, readers can sort it by any column."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 3  # of fractions
    kind = "table"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is embedded in the page."""

    content: bytes
    media_type: str  # image/png, image/jpeg or image/svg+xml
    description: str  # alternative text
    caption: str = ""
    anchor: str = ""  # target of the link `#anchor`
    link: Link | None = None  # below the caption
    wide: bool = False
    kind = "picture"

    @property
    def source(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True, slots=True)
class Folded:
    """Details that are shown on demand, also without JavaScript."""

    summary: str
    blocks: Sequence[Block]
    kind = "folded"


Block = Paragraph | Facts | Numbers | Table | Picture | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page, which the table of contents lists."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page."""

    title: str
    sections: Sequence[Section]


def render_page(page: Page) -> str:
    """The HTML of a page. Text is escaped; its content security policy forbids all requests."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    template = _environment().from_string(_asset("page.html"))
    return template.render(page=page, style=style, script=script, policy=policy)


def write_page(path: Path, page: Page) -> Path:
    """Write the HTML atomically: an incomplete file never appears. Returns: `path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(render_page(page), encoding="utf-8", errors="backslashreplace")
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    environment.tests["numeric"] = lambda value: isinstance(value, int | float)
    environment.tests["link"] = lambda value: isinstance(value, Link)
    return environment


def _number(value: float, digits: int) -> str:
    """Format integers with thin spaces, and fractions with `digits` digits.

    >>> _number(12345, 3), _number(0.5, 3)
    ('12\\u2009345', '0.500')
    """
    return f"{value:,}".replace(",", "\u2009") if isinstance(value, int) else f"{value:.{digits}f}"


@cache
def _asset(name: str) -> str:
    return (resources.files("vistool.rendering") / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
