"""Compare two results on one data set, and test which differences are significant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistool.config import EvalConfig
from vistool.engine.evaluate.evaluate import measure
from vistool.engine.evaluate.predictions import open_dataset, read_predictions
from vistool.engine.evaluate.report.content import Measured
from vistool.errors import DataError
from vistool.metrics.bootstrap import (
    CONFIDENCE,
    Difference,
    Measure,
    ap_measure,
    davis_measure,
    hota_measure,
    paired_bootstrap,
)
from vistool.progress import OnProgress, silent


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results side by side."""

    differences: tuple[Difference, ...]
    num_videos: int
    samples: int
    seed: int
    inputs: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints; differences are b - a."""
        return {
            "compare": {d.name: asdict(d) for d in self.differences},
            "videos": self.num_videos,
            "samples": self.samples,
            "seed": self.seed,
            "confidence": CONFIDENCE,
            "inputs": dict(self.inputs),
        }


def compare(
    path: Path,
    a: Path,
    b: Path,
    config: EvalConfig,
    *,
    davis: bool | None = None,
    on_progress: OnProgress = silent,
) -> Comparison:
    """Score two results on one data set, and compare them by a paired bootstrap over the videos.

    Videos that failed in either result are left out of both.

    Args:
        a, b: paths, as for `read_predictions`.
        davis: compute J and F as well; None: on DAVIS, and on sets with few masks.

    Raises: DataError; also if the two are scored on different categories.
    """
    dataset, key = open_dataset(path, a, b)
    pair = [
        read_predictions(file, dataset, key, on_progress=on_progress).above(config.conf)
        for file in (a, b)
    ]
    failed = {id_: why for one in pair for id_, why in one.failed.items()}
    pair = [replace(one, failed=failed) for one in pair]  # both on the same videos
    results = [measure(dataset, one, config, davis=davis, on_progress=on_progress) for one in pair]
    _check_comparable(results[0], results[1])
    ids = results[0].scored.video_ids
    measure_a, measure_b = (_measure(result) for result in results)
    differences = paired_bootstrap(
        measure_a, measure_b, len(ids), samples=config.samples, seed=config.seed
    )
    inputs = {"A": results[0].inputs(), "B": results[1].inputs()}
    return Comparison(tuple(differences), len(ids), config.samples, config.seed, inputs)


def _check_comparable(a: Measured, b: Measured) -> None:
    """Raises: DataError for different categories: means over them cannot be compared."""
    if (a.scored.categories, a.scored.merged) != (b.scored.categories, b.scored.merged):
        names = [", ".join(one.scored.categories.values()) for one in (a, b)]
        raise DataError(
            f"{a.source.path} is scored on {names[0]}; {b.source.path} on {names[1]}"
            + (", which stand for different categories" if names[0] == names[1] else ""),
            hint="compare two runs of models, or two results files without run.json",
        )


def _measure(result: Measured) -> Measure:
    """All numbers that can be computed on a sample of the videos, as one measure."""
    ids = result.scored.video_ids
    parts = [
        ap_measure(result.outcomes, result.scored.categories),
        hota_measure(result.hota_counts, ids),
    ]
    if result.objects:
        parts.append(davis_measure(result.objects, ids))

    def measure(drawn: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values for part in parts for name, values in part(drawn).items()}

    return measure
