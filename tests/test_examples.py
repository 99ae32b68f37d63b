"""Every script in examples/ that takes a video runs, on a made-up one and an untrained model."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import ShapesVideo
from tests.untrained import save_untrained

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
WITH_A_VIDEO = [path for path in EXAMPLES if path.stem != "make_dataset"]  # in test_fine_tune


@pytest.mark.parametrize("script", WITH_A_VIDEO, ids=lambda path: path.stem)
def test_example_runs_and_is_short(
    script: Path,
    tmp_path: Path,
    shapes_video: ShapesVideo,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = save_untrained(tmp_path / "random.safetensors", ("square", "disc"), num_queries=6)
    video = tmp_path / "shapes.mp4"
    video.write_bytes(shapes_video.path.read_bytes())
    monkeypatch.setattr(sys, "argv", [str(script), str(video), str(weights)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert len(script.read_text().splitlines()) <= 40
