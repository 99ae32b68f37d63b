"""A small model learns eight made clips by heart: the benchmark of that, where it is quick."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parent.parent / "benchmarks" / "overfit.py"


@pytest.mark.slow
def test_ifc_learns_eight_clips_by_heart_from_random_weights(tmp_path: Path) -> None:
    """To mask AP 0.95; a minute of CPU."""
    overfit = runpy.run_path(str(BENCHMARK))["overfit"]
    assert overfit("ifc", tmp_path, steps=600, every=50)
