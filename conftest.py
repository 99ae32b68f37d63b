"""The world of the examples in docstrings: a labelled video, and a model that knows its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vistool


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.made_squares import save_clip, save_labels

    folder = tmp_path_factory.mktemp("examples")
    save_clip(folder / "squares.mp4")
    save_labels(folder)
    return folder


@pytest.fixture(autouse=True)
def _world_of_examples(
    request: pytest.FixtureRequest,
    doctest_namespace: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Examples know `vistool` and `model`, and run beside squares.mp4 and its labels."""
    if isinstance(request.node, pytest.DoctestItem):
        from tests.made_squares import loaded

        monkeypatch.chdir(request.getfixturevalue("example_folder"))
        doctest_namespace.update(vistool=vistool, model=loaded())
