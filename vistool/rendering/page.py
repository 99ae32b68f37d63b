"""Self-contained HTML pages: text, tables and pictures in one file that sends no request."""

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
    """Text that leads to another place of the page (`#name`) or to a file, relative to the page."""

    text: str
    to: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.to)
        if parts.scheme not in {"", "file"} or parts.netloc:
            raise ValueError(f"a link that leads away from this machine: {self.to!r}")


Cell = str | int | float | Link | None  # None: nothing to say


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A few sentences."""

    text: str
    kind = "paragraph"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what there is to say of each."""

    rows: Mapping[str, str]
    kind = "facts"


@dataclass(frozen=True, slots=True)
class Numbers:
    """The few figures that matter most, large."""

    values: Mapping[str, str]
    kind = "numbers"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that the reader can sort by any column, where scripts run."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 3  # of fractions
    kind = "table"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that travels inside the page."""

    content: bytes
    media_type: str  # image/png, image/jpeg or image/svg+xml
    description: str  # for those who do not see it
    caption: str = ""
    anchor: str = ""  # links lead here by `#anchor`
    link: Link | None = None  # below the caption
    wide: bool = False
    kind = "picture"

    @property
    def source(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True, slots=True)
class Folded:
    """Details that are shown on demand; works without scripts."""

    summary: str
    blocks: Sequence[Block]
    kind = "folded"


Block = Paragraph | Facts | Numbers | Table | Picture | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with its place in the table of contents."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page."""

    title: str
    sections: Sequence[Section]


def render_page(page: Page) -> str:
    """The HTML. All text is escaped; the page's own policy forbids every request."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    template = _environment().from_string(_asset("page.html"))
    return template.render(page=page, style=style, script=script, policy=policy)


def write_page(path: Path, page: Page) -> Path:
    """Write the HTML; the file appears whole or not at all."""
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
    """Whole numbers with thin spaces, fractions with some digits.

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
