"""Plain English: the words that readers stumble over, each with the usual term for it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "tests/README.md", "weights/README.md")
CODE = ("vistool", "tests", "benchmarks", "research", "examples")

# Not written -> written instead. A space stands for any white space, line ends included.
WORDS = {
    r"surer|surest": "more confident, higher-scoring",
    r"likelier": "more likely",
    r"mend(s|ed|ing)?": "fix, correct; an oracle, where AP is computed with errors corrected",
    r"price": "cost; AP lost to an error",
    r"foreign": "external, of unknown origin",
    r"by heart": "memorise, overfit",
    r"no (finite )?numbers?": "NaN or infinite; not a number",
    r"unlearn(s|ed|ing)?": "forget",
    r"loses? no": "does not stop, does not affect",
    r"(is|are|be|being) told(?! apart)": "is reported, is printed",
    r"amid|(in the )?midst": "during, in the middle of",
    r"whoever": "the caller, the code that",
    r"as ever": "as usual",
    r"anew": "again; redrawn, re-read",
    r"shall": "must, should",
    r"held (to|against)": "compared with",
    r"(?<!there\s)(is|are|was|were) no (?!longer|more|later)\w+": "is not a",
    r"(that|which) (is|are) none": "that is not one",
    r"wish(es|ed)?": "request, ask",
    r"at hand": "available",
    r"by way of": "through",
    r"says? of": "says about",
    r"so many": "the number itself, by its name",
    r"ha(s|ve) a say": "counts, contributes",
    r"(model|query|queries) (finds?|found)": "predicts; predictions",
    r"pieces? (of (a |its |one |the )?masks?|that)": "connected component",
    r"(?<!training\s)made(-up)? (videos?|clips?|data|sets?|squares?|pictures?)": "synthetic",
    r"(?!(is|was|has|as) )(\w+s|\w+B|\d) a (second|minute|hour)": "per second",
    r"(one|two|few|\d+|JSON) \w+ an? (row|frame|source|command|term|process|core)": "per frame",
    r"a (row|line|PNG) an? (row|frame|source)": "per frame",
}


class Text(NamedTuple):
    """A piece of text for people, and where it begins."""

    path: Path
    line: int
    text: str
    is_docstring: bool = False


def parts_of_python(path: Path) -> Iterator[Text]:
    """Docstrings, comments, and other strings of several words: messages and help texts."""
    source = path.read_text()
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented)
        if ast.get_docstring(node) is not None
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield Text(path, node.lineno, node.value, id(node) in docstrings)
    yield from comments(path, source)


def comments(path: Path, source: str) -> Iterator[Text]:
    """Comments without their marks; lines that follow each other are one."""
    block: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start != (block[-1].start[0] + 1, block[-1].start[1]):
            yield joined(path, block)
            block = []
        block.append(token)
    if block:
        yield joined(path, block)


def joined(path: Path, block: list[tokenize.TokenInfo]) -> Text:
    text = "\n".join(token.string.lstrip("#") for token in block)
    return Text(path, block[0].start[0], text)


@cache
def texts() -> list[Text]:
    """Everything that people read."""
    found = [Text(ROOT / page, 1, (ROOT / page).read_text()) for page in PAGES]
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(__file__).resolve():
                found += parts_of_python(path)
    return found


def without_code(text: str) -> str:
    """The text with code in backquotes blanked; every other character keeps its place."""
    code = r"```.*?```|`[^`\n]*`"
    return re.sub(code, lambda match: re.sub(r"[^\n]", "`", match[0]), text, flags=re.DOTALL)


def places(pattern: str) -> list[str]:
    expression = re.compile(rf"\b(?:{pattern})\b".replace(" ", r"\s+"), re.IGNORECASE)
    found = []
    for path, line, text, _ in texts():
        for match in expression.finditer(without_code(text)):
            where = f"{path.relative_to(ROOT)}:{line + text[: match.start()].count(chr(10))}"
            around = " ".join(text[max(0, match.start() - 40) : match.end() + 30].split())
            found.append(f"{where}: ...{around}...")
    return found


@pytest.mark.parametrize(("pattern", "instead"), WORDS.items(), ids=WORDS)
def test_a_usual_term_is_used(pattern: str, instead: str) -> None:
    found = places(pattern)
    assert not found, "\n".join([f"{len(found)} times; write instead: {instead}", *found])


@pytest.mark.parametrize("start", ["What", "Of"])
def test_a_docstring_begins_with_its_subject(start: str) -> None:
    found = [
        f"{text.path.relative_to(ROOT)}:{text.line}: {text.text.splitlines()[0]}"
        for text in texts()
        if text.is_docstring and re.match(rf"{start}\b", text.text)
    ]
    assert not found, "\n".join([f"{len(found)} docstrings begin with {start}", *found])


def test_words_are_seen_in_docstrings_comments_messages_and_pages(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(
        '"""A module."""\n'
        "x = 'a-key'  # the\n"
        "# comment of\n"
        "# two lines\n"
        "def f():\n"
        '    """What it does."""\n'
        "    raise ValueError(f'a message {x} to people')\n"
    )
    seen = [(text.line, text.text.strip(), text.is_docstring) for text in parts_of_python(file)]
    assert sorted(seen) == [
        (1, "A module.", True),
        (2, "the", False),
        (3, "comment of\n two lines", False),
        (6, "What it does.", True),
        (7, "a message", False),
        (7, "to people", False),
    ]
    assert without_code("a `b c` d") == "a ````` d"
