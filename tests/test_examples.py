"""The scripts and the notebook in examples/ run, on a synthetic video and an untrained model."""

from __future__ import annotations

import ast
import os
import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ShapesVideo
from tests.untrained import save_untrained

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "tracks_as_arrays.ipynb"
# make_dataset is in test_fine_tune.
SCRIPTS = [path for path in sorted(EXAMPLES.glob("*.py")) if path.stem != "make_dataset"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_untrained(tmp_path / "random.safetensors", ("square", "disc"), num_queries=6)


@pytest.fixture
def video(tmp_path: Path, shapes_video: ShapesVideo) -> Path:
    path = tmp_path / "shapes.mp4"
    path.write_bytes(shapes_video.path.read_bytes())
    return path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_runs_and_is_short(
    script: Path,
    video: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), str(video), str(weights)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert len(script.read_text().splitlines()) <= 40


@pytest.mark.parametrize("path", [*SCRIPTS, NOTEBOOK], ids=lambda path: path.stem)
def test_examples_use_public_names_only(path: Path) -> None:
    code = path.read_text()
    if path == NOTEBOOK:
        cells = nbformat.reads(code, as_version=4).cells  # type: ignore[no-untyped-call]
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    modules = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            modules.append(f"{node.module}.")
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    assert "vistool" in modules
    assert not [module for module in modules if module.startswith("vistool.")]


def test_the_notebook_runs(tmp_path: Path, video: Path, weights: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is stored without outputs
    settings = next(cell for cell in notebook.cells if cell.source.startswith("SOURCE"))
    settings.source = f"SOURCE, MODEL = {str(video)!r}, {str(weights)!r}"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute(
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    )
    shown = [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert any("image/png" in data for data in shown)  # of a frame
    assert any("<table>" in data.get("text/html", "") for data in shown)  # of the video
    assert (tmp_path / "again.mp4").exists()
