"""The film strips of an evaluation's report: the worst tracks, drawn on their frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from vistool.engine.evaluate.report.content import Measured
from vistool.errors import DataError
from vistool.formats.masks.rle import decode_mask
from vistool.formats.video.frame_files import read_frame
from vistool.metrics.errors.diagnosis import FalsePositive, TruthVerdict
from vistool.rendering.film_strip import StripFrame, chosen_frames, film_strip
from vistool.rendering.page import Link, Picture
from vistool.structures import RLE, TrackSegmentation

MOST_STRIPS = 12  # of a kind
STRIP_FRAMES = 6
MOST_STRIP_BYTES = 6_000_000  # of all strips together


class StripMaker:
    """Draws film strips for a page in `folder`, up to MOST_STRIP_BYTES in total."""

    def __init__(self, result: Measured, folder: Path) -> None:
        self._result = result
        self._folder = folder
        self._bytes = 0

    def strips(
        self, kind: str, tracks: Sequence[TruthVerdict | FalsePositive]
    ) -> dict[int, Picture]:
        """Film strips of the first tracks of a list, by position in the list."""
        strips: dict[int, Picture] = {}
        for i, track in enumerate(tracks[:MOST_STRIPS]):
            if self._bytes > MOST_STRIP_BYTES:
                break
            strip = self._strip(f"{kind}-{i + 1}", track)
            if strip is not None:
                strips[i] = strip
                self._bytes += len(strip.content)
        return strips

    def _strip(self, anchor: str, track: TruthVerdict | FalsePositive) -> Picture | None:
        scored = self._result.scored
        truth, predictions = scored.truth[track.video_id], scored.predictions[track.video_id]
        labelled = truth[track.truth].segmentations if track.truth is not None else None
        prediction = predictions[track.prediction] if track.prediction is not None else None
        predicted = prediction["segmentations"] if prediction else None
        # Frames are chosen where the labelled track is seen, or else where the prediction is.
        subject = labelled if isinstance(track, TruthVerdict) else predicted
        assert subject is not None
        nothing = [None] * len(subject)
        pairs = list(zip(labelled or nothing, predicted or nothing, strict=True))
        places = chosen_frames(np.array([_visible(mask) for mask in subject]), STRIP_FRAMES)
        if not places:
            return None
        frames = [self._strip_frame(track.video_id, place, *pairs[place]) for place in places]
        caption = self._caption(track, prediction)
        description = f"{len(frames)} frames of {caption}"
        link = self.picture_link(track.video_id, places[0])
        return Picture(
            film_strip(frames), "image/jpeg", description, caption, anchor, link, wide=True
        )

    def _caption(
        self, track: TruthVerdict | FalsePositive, prediction: TrackSegmentation | None
    ) -> str:
        video, categories = self._result.video_name(track.video_id), self._result.scored.categories
        category = categories[track.category_id]
        if isinstance(track, FalsePositive):
            return (
                f"{video}, prediction {track.prediction}, {category} {track.score:.2f}: "
                f"{track.kind}"
            )
        caption = f"{video}, track {track.truth}, {category}: {track.kind}"
        if prediction is None:
            return caption
        predicted = categories[prediction["category_id"]]
        return f"{caption}; best IoU {track.iou:.2f} with {predicted} {track.score:.2f}"

    def _strip_frame(
        self, video_id: int, place: int, truth: RLE | None, prediction: RLE | None
    ) -> StripFrame:
        size = (truth or prediction or {"size": [1, 1]})["size"]
        return StripFrame(
            number=place,
            truth=decode_mask(truth) if truth else None,
            prediction=decode_mask(prediction) if prediction else None,
            size=(size[0], size[1]),
            image=self._image(video_id, place),
        )

    def _image(self, video_id: int, place: int) -> np.ndarray | None:
        files = self._result.pictures(video_id)
        try:
            return read_frame(files, place) if place < len(files) else None
        except DataError:
            return None

    def picture_link(self, video_id: int, place: int) -> Link | None:
        """A link from the page to the picture of a frame; None if there is no picture."""
        file = self._result.picture(video_id, place)
        if file is None:
            return None
        relative = Path(os.path.relpath(file.resolve(), self._folder.resolve()))
        return Link(file.name, quote(f"./{relative.as_posix()}"))


def _visible(mask: RLE | None) -> bool:
    return mask is not None and bool(decode_mask(mask).any())
