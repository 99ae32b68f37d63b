"""A small model learns eight made clips by heart: the benchmark of that, where it is quick."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parent.parent / "research" / "overfit.py"


@pytest.mark.slow
@pytest.mark.parametrize(("model", "steps"), [("ifc", 600), ("vistr", 1000)])
def test_a_model_learns_eight_clips_by_heart_from_random_weights(
    tmp_path: Path, model: str, steps: int
) -> None:
    """To mask AP 0.95; a minute or two of CPU."""
    overfit = runpy.run_path(str(BENCHMARK))["overfit"]
    assert overfit(model, tmp_path, steps=steps, every=50)
