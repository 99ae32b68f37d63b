"""The documentation names commands, folders, files and Python names that exist."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer

import vistool
from vistool.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "ARCHITECTURE.md")


def command_names() -> list[str]:
    names = [command.name for command in app.registered_commands]
    names += [group.name for group in app.registered_groups]
    functions = [command.callback for command in app.registered_commands]
    return [name or functions[i].__name__ for i, name in enumerate(names)]  # type: ignore[union-attr]


def examples() -> list[list[str]]:
    """The words of every `vistool ...` line in the README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vistool ")]


def folders() -> list[str]:
    package = Path(vistool.__file__).parent
    return sorted(path.parent.name for path in package.glob("*/__init__.py"))


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_an_example_in_the_readme(name: str) -> None:
    assert name in {words[0] for words in examples()}


@pytest.mark.parametrize("words", examples(), ids=" ".join)
def test_every_example_in_the_readme_has_the_command_and_its_options(words: list[str]) -> None:
    command = typer.main.get_command(app)
    context = command.make_context("vistool", list(words), resilient_parsing=True)
    while subcommands := getattr(command, "commands", None):
        assert words[0] in subcommands
        command, words = subcommands[words[0]], words[1:]
    command.make_context("vistool", list(words), parent=context)  # an unknown option raises


@pytest.mark.parametrize("name", folders())
def test_every_folder_has_a_line_in_the_architecture(name: str) -> None:
    assert re.search(rf"^  {name}/ ", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)


def test_every_folder_in_the_architecture_exists() -> None:
    drawn = re.findall(r"^  (\w+)/ ", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert sorted(drawn) == folders()


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_python_names_on_the_pages_are_public(page: str) -> None:
    names = set(re.findall(r"\bvistool\.([a-z]\w*)", (ROOT / page).read_text()))
    assert names <= set(vistool.__all__)


PUBLIC = [name for name in vistool.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    """Doctest runs these examples."""
    assert ">>> " in (getattr(vistool, name).__doc__ or "")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_of_a_public_function_has_a_type(name: str) -> None:
    signature = inspect.signature(getattr(vistool, name))
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert signature.return_annotation is not signature.empty or inspect.isclass(
        getattr(vistool, name)
    )
