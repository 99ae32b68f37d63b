"""Read a data set of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistool.annotations.coco_json import read_coco_json
from vistool.annotations.dataset import DataSet
from vistool.annotations.davis import is_davis, read_davis
from vistool.annotations.mots import is_mots, read_mots
from vistool.annotations.problems import ProblemCallback, refuse
from vistool.errors import DataError
from vistool.progress import OnProgress, silent

USUAL_NAMES = ("instances.json", "annotations.json")


def read_dataset(
    path: Path,
    *,
    frames: Path | None = None,
    masks: bool = True,
    outlines: bool = False,
    on_problem: ProblemCallback = refuse,
    on_progress: OnProgress = silent,
) -> DataSet:
    """Read a data set: an annotation file, a folder with one, a DAVIS folder or a MOTS folder.

    Args: as in `read_coco_json`; `frames` and `outlines` only affect annotation files.
    Raises: DataError at the first error, or the exceptions of `on_problem`.
    """
    match _folder_kind(path):
        case "davis":
            return read_davis(path, masks=masks, on_problem=on_problem, on_progress=on_progress)
        case "mots":
            return read_mots(path, masks=masks, on_problem=on_problem, on_progress=on_progress)
    return read_coco_json(
        annotation_file(path),
        frames=frames,
        masks=masks,
        outlines=outlines,
        on_problem=on_problem,
        on_progress=on_progress,
    )


def annotation_file(path: Path) -> Path:
    """The annotation file at a path: the path itself, or the file in this folder.

    Raises: DataError if a folder has no JSON file, or several and not exactly one of a usual name.
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
            hint="searched for *.json (YouTube-VIS or COCO), JPEGImages and Annotations (DAVIS), "
            "and instances_txt, instances or */gt/gt.txt (MOTS)",
        )
    raise DataError(
        f"{path}: {len(found)} annotation files in this folder",
        hint=f"name one of them: {', '.join(file.name for file in found[:10])}",
    )


def _folder_kind(path: Path) -> Literal["davis", "mots"] | None:
    if not path.is_dir():
        return None
    if is_davis(path):
        return "davis"
    return "mots" if is_mots(path) else None
