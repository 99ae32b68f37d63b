"""Write annotation files in YouTube-VIS form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from vistool.annotations.dataset import AnnotatedTrack, AnnotatedVideo, DataSet
from vistool.formats.files import atomic_path, encode_json


def write_youtube_vis(path: Path, dataset: DataSet) -> None:
    """Write videos, annotations and categories; boxes and areas are computed from the masks."""
    videos = {video.id: video for video in dataset.videos}
    content = {
        "info": {"description": f"converted from {dataset.path.name}"},
        "videos": [_video(video) for video in dataset.videos],
        "annotations": [_annotation(track, videos[track.video_id]) for track in dataset.tracks],
        "categories": dataset.categories,
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_json(content) + b"\n")


def _video(video: AnnotatedVideo) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": video.id,
        "name": video.name,
        "width": video.size.width,
        "height": video.size.height,
        "length": video.length,
    }
    if video.file_names:
        entry["file_names"] = video.file_names
    if not video.exhaustive:
        entry["exhaustive"] = False
        entry["exhaustive_category_ids"] = sorted(video.exhaustive_ids)
    return entry


def _annotation(track: AnnotatedTrack, video: AnnotatedVideo) -> dict[str, Any]:
    masks = track.segmentations
    entry: dict[str, Any] = {
        "id": track.id,
        "video_id": track.video_id,
        "category_id": track.category_id,
        "iscrowd": int(track.is_crowd),
        "width": video.size.width,
        "height": video.size.height,
        "length": video.length,
        "segmentations": masks,
        "bboxes": [None if m is None else [float(x) for x in coco.toBbox(m)] for m in masks],
        "areas": [None if m is None else int(coco.area(m)) for m in masks],
    }
    if track.occlusion is not None:
        entry["occlusion"] = track.occlusion
    return entry
