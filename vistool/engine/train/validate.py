"""Score a model on a held-out data set during training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch

from vistool.annotations.dataset import AnnotatedTrack
from vistool.config import PredictConfig
from vistool.data.labelled import LabelledVideo
from vistool.engine.distributed import Processes
from vistool.engine.predict.segment import Segmenter
from vistool.formats.masks.rle import encode_mask
from vistool.formats.video.reader import open_frames
from vistool.metrics.ap import average_precision
from vistool.metrics.overlaps import overlaps_of_videos
from vistool.metrics.partial_labels import scorable
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR
from vistool.structures import RLE, TrackSegmentation
from vistool.tracking.postprocess import masks_at, results_multi_class, results_single_class

MEASURES = ("AP", "AP50")


def validate(
    model: IFC | VisTR,
    videos: Sequence[LabelledVideo],
    processes: Processes,
    *,
    on_video: Callable[[int, int], None] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """AP and AP50 of a model in evaluation mode; the processes share the videos.

    A picture is a video of one frame. If a class is not completely labelled in a video, its
    predictions there count only if they match a labelled object of the class.

    Args:
        on_video: called with the number of videos that this process has done, and its total.
        stopped: called before every video; True ends the validation.

    Returns: None if `stopped` was true in any process.
    Raises: DataError if any process cannot read a frame, as `Processes.together`.
    """
    mine = processes.mine(range(len(videos)))

    def run() -> list[tuple[int, list[TrackSegmentation]]]:
        found = []
        for done, index in enumerate(mine):
            if stopped():
                break
            found.append((index, tracks_of(model, videos[index], index, processes.device)))
            on_video(done + 1, len(mine))
        return found

    found = processes.together(run)
    if processes.any(stopped()):
        return None
    tracks = dict(pair for part in processes.gather(found) for pair in part)
    return processes.agree(lambda: _score(videos, tracks, len(model.config.class_names)))


def tracks_of(
    model: IFC | VisTR, video: LabelledVideo, video_id: int, device: torch.device
) -> list[TrackSegmentation]:
    """The predicted tracks of a labelled video; category ids are the model's labels, from 0.

    A track is reported for every likely class or only for its most likely class, depending on the
    model's `every_likely_class`.
    """
    segmenter = Segmenter(model, PredictConfig(), device)
    masks: dict[int, list[RLE | None]] = {}
    with (
        open_frames(video.files) as reader,
        contextlib.closing(segmenter.frames(reader.frames())) as frames,
    ):
        for position, frame in enumerate(frames):
            assert frame.tracks is not None, "no frame is left out"
            for track_id, mask in masks_at(frame.tracks, frame.size):
                track = masks.setdefault(track_id, [None] * len(video.files))
                track[position] = encode_mask(mask)
    choose = results_multi_class if model.config.every_likely_class else results_single_class
    return [
        {
            "video_id": video_id,
            "category_id": label,
            "score": score,
            "segmentations": masks[track_id],
        }
        for track_id, label, score in choose(segmenter.class_probs())
        if track_id in masks
    ]


def _score(
    videos: Sequence[LabelledVideo],
    tracks: dict[int, list[TrackSegmentation]],
    num_classes: int,
) -> dict[str, float]:
    compared = []
    for index, video in enumerate(videos):
        labelled = [AnnotatedTrack(index, t.label, t.segmentations) for t in video.tracks]
        labelled += [
            AnnotatedTrack(index, region.label, region.segmentations, is_crowd=True)
            for region in video.regions
        ]
        complete = [label for label, all_labelled in enumerate(video.exhaustive) if all_labelled]
        compared.append((index, labelled, scorable(tracks[index], labelled, exhaustive=complete)))
    ap = average_precision(overlaps_of_videos(compared), category_ids=range(num_classes))
    summary = ap.summary()
    return {name: summary[name] for name in MEASURES}
