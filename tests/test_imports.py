"""Imports go one way: no circle between modules, nor between folders."""

from __future__ import annotations

from functools import cache
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


@cache
def imports() -> grimp.ImportGraph:
    """The imports of the running program, those within functions included."""
    return grimp.build_graph("vistool", exclude_type_checking_imports=True, cache_dir=None)


def folders() -> list[str]:
    return sorted(module for module in imports().modules if imports().find_children(module))


def arrows(folder: str) -> dict[str, set[str]]:
    """Which of the modules and folders in a folder import which others of them."""
    children = imports().find_children(folder)
    found: dict[str, set[str]] = {child: set() for child in children}
    for child in children:
        for module in {child, *imports().find_descendants(child)}:
            for imported in imports().find_modules_directly_imported_by(module):
                home = ".".join(imported.split(".")[: child.count(".") + 1])
                if home in children and home != child:
                    found[child].add(home)
    return found


@pytest.mark.parametrize("folder", folders())
def test_nothing_in_a_folder_imports_itself_by_way_of_others(folder: str) -> None:
    try:
        TopologicalSorter(arrows(folder)).prepare()
    except CycleError as error:
        # The standard library gives the arrows from the imported to the importing one.
        pytest.fail(f"import circle: {' imports '.join(reversed(error.args[1]))}")


def test_a_circle_of_folders_would_be_seen() -> None:
    graph = imports()
    graph.add_import(importer="vistool.ops.boxes", imported="vistool.engine.train.train")
    try:
        with pytest.raises(CycleError):
            TopologicalSorter(arrows("vistool")).prepare()
    finally:
        graph.remove_import(importer="vistool.ops.boxes", imported="vistool.engine.train.train")
