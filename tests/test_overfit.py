"""A small model overfits eight synthetic clips, as in `research/overfit.py`, where it is fast."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parent.parent / "research" / "overfit.py"


@pytest.mark.slow
@pytest.mark.parametrize(("model", "steps"), [("ifc", 600), ("vistr", 1000)])
def test_a_model_overfits_eight_clips_from_random_weights(
    tmp_path: Path, model: str, steps: int
) -> None:
    """It reaches mask AP 0.95 in one or two minutes of CPU time."""
    overfit = runpy.run_path(str(BENCHMARK))["overfit"]
    assert overfit(model, tmp_path, steps=steps, every=50)
