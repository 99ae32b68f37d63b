"""Which kind of data set a path is; reading any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistool.errors import DataError
from vistool.formats.coco_json import read_coco_json
from vistool.formats.dataset import DataSet
from vistool.formats.problems import ProblemCallback, refuse

Kind = Literal["json"]
USUAL_NAMES = ("instances.json", "annotations.json")


def read_dataset(
    path: Path,
    *,
    frames: Path | None = None,
    masks: bool = True,
    on_problem: ProblemCallback = refuse,
) -> DataSet:
    """Read a data set: an annotation file, or a folder that holds one.

    Args: as in `read_coco_json`.
    Raises: DataError at the first thing that is wrong, or what `on_problem` raises.
    """
    return read_coco_json(annotation_file(path), frames=frames, masks=masks, on_problem=on_problem)


def annotation_file(path: Path) -> Path:
    """The annotation file that a path means: itself, or the one in that folder.

    Raises: DataError if there is none, or several without one of a usual name.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.json"))
    usual = [file for file in found if file.name in USUAL_NAMES]
    if len(usual or found) == 1:
        return (usual or found)[0]
    if not found:
        raise DataError(
            f"{path}: no annotation file in this folder",
            hint="looked for *.json in YouTube-VIS or COCO form",
        )
    raise DataError(
        f"{path}: {len(found)} annotation files in this folder",
        hint=f"name one of them: {', '.join(file.name for file in found[:10])}",
    )
