"""What the papers' trainings read of an annotation file beside masks: boxes, areas, outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vistool.data.annotations import LabelledTrack, LabelledVideo, Stated, read_annotations
from vistool.errors import DataError


def read_with_stated(
    path: Path, classes: Mapping[str, Sequence[str]], *, frames: Path | None = None
) -> list[LabelledVideo]:
    """As `read_annotations`, with every track's `stated` filled. Raises: DataError."""
    videos = read_annotations(path, classes, frames=frames)
    stated = {
        annotation["id"]: _stated(annotation, path)
        for annotation in msgspec.json.decode(path.read_bytes())["annotations"]
    }
    return [
        replace(video, tracks=tuple(_filled(track, stated, path) for track in video.tracks))
        for video in videos
    ]


def _filled(track: LabelledTrack, stated: Mapping[int, Stated], path: Path) -> LabelledTrack:
    found = stated.get(track.id)
    length = len(track.segmentations)
    if found is None or len(found.outlines) != length:
        raise DataError(
            f"{path}: annotation {track.id} is not one of a whole video, or of a picture",
            hint="the papers' pipelines read COCO instance files and YouTube-VIS files",
        )
    return replace(track, stated=found)


def _stated(annotation: dict[str, Any], path: Path) -> Stated:
    masks = _by_frame(annotation, "segmentations", "segmentation", 1)
    boxes = _by_frame(annotation, "bboxes", "bbox", len(masks))
    areas = _by_frame(annotation, "areas", "area", len(masks))
    if not len(masks) == len(boxes) == len(areas):
        raise DataError(
            f"{path}: annotation {annotation['id']} has {len(masks)} masks, {len(boxes)} boxes and "
            f"{len(areas)} areas"
        )
    for box in boxes:
        if box is not None and (len(box) != 4 or not all(np.isfinite(box))):
            raise DataError(
                f"{path}: annotation {annotation['id']} has a box {box}",
                hint="a box is left, top, width and height in pixels",
            )
    return Stated(
        boxes_xywh=tuple(None if box is None else tuple(box) for box in boxes),
        areas=tuple(areas),
        outlines=tuple(_outline(mask) for mask in masks),
    )


def _by_frame(annotation: dict[str, Any], of_video: str, of_picture: str, length: int) -> list[Any]:
    if of_video in annotation:
        return list(annotation[of_video])
    if of_picture in annotation:
        return [annotation[of_picture]]
    return [None] * length


def _outline(segmentation: Any) -> tuple[np.ndarray, ...] | None:
    if not isinstance(segmentation, list) or not segmentation:
        return None
    return tuple(np.array(polygon, np.float64).reshape(-1, 2) for polygon in segmentation)
