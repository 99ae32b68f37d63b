"""Predictions in the form that the benchmarks' servers take."""

from __future__ import annotations

import zipfile
from pathlib import Path

from vistool.engine.predictions import Predictions
from vistool.errors import UsageError
from vistool.formats.atomic import atomic_path
from vistool.formats.results import RESULTS, write_results

SUFFIX = ".zip"


def write_submission(path: Path, predictions: Predictions) -> Path:
    """Write a zip with results.json at its top; the predictions have been checked already.

    Returns: `path`. Raises: UsageError if it is no .zip.
    """
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"{path}: servers take a {SUFFIX}")
    results = path.with_name(f".{path.stem}-{RESULTS}")
    try:
        write_results(results, predictions.results)
        with (
            atomic_path(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            archive.write(results, RESULTS)
    finally:
        results.unlink(missing_ok=True)
    return path
