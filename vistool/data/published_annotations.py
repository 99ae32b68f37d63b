"""What the papers' trainings read of an annotation file beside masks: boxes, areas, outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vistool.data.annotations import LabelledTrack, LabelledVideo, Stated, read_annotations
from vistool.errors import DataError
from vistool.formats.coco_json import load_parts
from vistool.formats.detect import annotation_file, kind_of
from vistool.formats.json_bytes import plain


def read_with_stated(
    path: Path, classes: Mapping[str, Sequence[str]], *, frames: Path | None = None
) -> list[LabelledVideo]:
    """As `read_annotations`, with every track's `stated` filled where the file can say so much.

    COCO instance files and YouTube-VIS files can, in the form that the papers used.
    Raises: DataError.
    """
    videos = read_annotations(path, classes, frames=frames)
    if kind_of(path) not in ("youtube-vis", "coco"):
        return videos
    file = annotation_file(path)
    wanted = {track.id for video in videos for track in video.tracks}
    entries = (plain(entry) for entry in load_parts(file)["annotations"])
    stated = {entry["id"]: _stated(entry, file) for entry in entries if entry["id"] in wanted}
    return [
        replace(video, tracks=tuple(_filled(track, stated) for track in video.tracks))
        for video in videos
    ]


def _filled(track: LabelledTrack, stated: Mapping[int, Stated]) -> LabelledTrack:
    return replace(track, stated=stated.get(track.id))


def _stated(annotation: dict[str, Any], path: Path) -> Stated:
    masks = _by_frame(annotation, "segmentations", "segmentation", 1)
    boxes = _by_frame(annotation, "bboxes", "bbox", len(masks))
    areas = _by_frame(annotation, "areas", "area", len(masks))
    where = f"{path}: annotation {annotation['id']}"
    if not len(masks) == len(boxes) == len(areas):
        raise DataError(
            f"{where} has {len(masks)} masks, {len(boxes)} boxes and {len(areas)} areas"
        )
    for box in boxes:
        if box is not None and not (len(box) == 4 and np.isfinite(box).all()):
            raise DataError(
                f"{where} has a box {box}", hint="a box is left, top, width and height in pixels"
            )
    return Stated(
        boxes_xywh=tuple(None if box is None else tuple(box) for box in boxes),
        areas=tuple(areas),
        outlines=tuple(_outline(mask) for mask in masks),
    )


def _by_frame(annotation: dict[str, Any], of_video: str, of_picture: str, length: int) -> list[Any]:
    """One value a frame of a video, or that of a picture; None where there is none."""
    if annotation.get(of_video) is not None:
        return list(annotation[of_video])
    return [annotation.get(of_picture)] * length


def _outline(segmentation: Any) -> tuple[np.ndarray, ...] | None:
    if not isinstance(segmentation, list) or not segmentation:
        return None
    return tuple(np.array(polygon, np.float64).reshape(-1, 2) for polygon in segmentation)
