"""A video while it is predicted: what is kept of every final frame, until it is a TrackedVideo."""

from __future__ import annotations

import contextlib
from array import array
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import msgspec

from vistool.config import PredictConfig
from vistool.engine.device import versions
from vistool.engine.predict.job import PredictJob
from vistool.engine.predict.segment import SegmentedFrame
from vistool.engine.tracked_video import TrackedVideo
from vistool.formats.files import path_as_text
from vistool.formats.masks.rle import encode_mask
from vistool.formats.results.files import Category, VideoMeta
from vistool.formats.results.spool import SegmentationSpool
from vistool.formats.video.reader import VideoReader
from vistool.progress import OnProgress
from vistool.structures import Track
from vistool.tracking.postprocess import masks_at

VIDEO_ID = 1  # every video has a results file of its own


class VideoRecord:
    """The final frames of a video: masks on disk; in memory 8 bytes a frame and 4 a mask."""

    def __init__(self, job: PredictJob, reader: VideoReader, spool: SegmentationSpool) -> None:
        self._job, self._reader, self._spool = job, reader, spool
        self._segmenter = job.segmenter()
        self._overlaps = job.overlaps()
        self._first_frame = 0
        self._times = array("d")
        self._frames: defaultdict[int, array[int]] = defaultdict(lambda: array("I"))  # by track

    @property
    def length(self) -> int:
        """The number of frames that are complete."""
        return len(self._times)

    def fill(self, on_progress: OnProgress) -> None:
        """Run the model over the video. Raises: as `PredictJob.decoded`, and OutOfMemoryError."""
        total = _expected_frames(self._reader, self._job.config)
        decoded = self._job.decoded(self._reader)
        with contextlib.closing(self._segmenter.frames(decoded)) as frames:
            for frame in frames:
                self._add(frame)
                on_progress("segmenting", self.length, total)

    def _add(self, frame: SegmentedFrame) -> None:
        if not self._times:
            self._first_frame = frame.index
        if frame.tracks is not None:
            if self._overlaps is not None:
                self._overlaps.add(frame.tracks)
            for track_id, mask in masks_at(frame.tracks, frame.size):
                self._spool.add(self.length, track_id, encode_mask(mask))
                self._frames[track_id].append(self.length)
        self._times.append(frame.time)

    def video(
        self, *, complete: bool, resources: contextlib.ExitStack | None = None
    ) -> TrackedVideo:
        """The tracks that are to be reported, numbered from 1 as they appear.

        Args:
            complete: whether all frames that the source gave are there; the video is a part, too,
                where the source did not give all.
            resources: closed with the video.
        """
        found = self._job.results(self._segmenter.class_probs())
        tracks = [
            replace(track, frames=frames)
            for track in self._job.reported(found, self._overlaps)
            if (frames := self._frames_of(track.id))
        ]
        return TrackedVideo(
            self._meta(complete),
            _numbered(tracks),
            self._spool,
            lambda: self._reader,
            name=f"tracks of {self._reader.path}",
            resources=resources,
        )

    def _frames_of(self, track_id: int) -> array[int]:
        """Without a frame that was being added when it all came to an end."""
        return array("I", (frame for frame in self._frames[track_id] if frame < self.length))

    def _files(self) -> list[str] | None:
        """Where every frame comes from, if they are kept as pictures."""
        names = self._reader.frame_names
        chosen = names[self._first_frame : self._first_frame + self.length]
        return [path_as_text(Path(name)) for name in chosen] if names else None

    def _meta(self, complete: bool) -> VideoMeta:
        header = self._job.loaded.header
        config = self._job.config
        used = {
            "max_overlap": self._job.max_overlap,
            "clip_length": self._segmenter.clip_length or "all",
            "clip_stride": self._segmenter.clip_stride,
            "size": self._segmenter.short_side,
            "batch": self._segmenter.batch,
            "device": str(self._segmenter.device),
            "precision": str(self._segmenter.dtype).removeprefix("torch."),
        }
        return VideoMeta(
            source=path_as_text(self._reader.path.absolute()),
            video_id=VIDEO_ID,
            width=self._reader.size.width,
            height=self._reader.size.height,
            length=self.length,
            complete=complete and not self._reader.incomplete,
            first_frame=self._first_frame,
            times=self._times.tolist(),
            frame_stride=config.frame_stride,
            rotation=self._reader.rotation,
            fps=self._reader.fps,
            stream=self._reader.stream,
            value_range=self._reader.value_range,
            files=self._files(),
            categories=[
                Category(id=i, name=name)
                for i, name in zip(header.config.ids_of_classes(), self._job.names, strict=True)
            ],
            model={
                "name": header.name,
                "path": path_as_text(header.path),
                "sha256": self._job.loaded.sha256,
            },
            settings={**msgspec.to_builtins(config), **used},
            versions=versions(),
        )


def _numbered(tracks: list[Track]) -> list[tuple[Track, int]]:
    """Tracks with new ids, from 1 by first frame, and the ids that they had.

    Of those that begin together, the first in the list comes first.
    """
    first = {track.id: track.frames[0] for track in tracks}  # once, where there is one a class
    ids = {old: new for new, old in enumerate(sorted(first, key=first.__getitem__), start=1)}
    return [(replace(track, id=ids[track.id]), track.id) for track in tracks]


def _expected_frames(reader: VideoReader, config: PredictConfig) -> int | None:
    """A guess for the progress bar."""
    total = reader.frame_count_hint
    if total is None:
        return None
    end = total if config.end is None else min(total, round(config.end * reader.fps))
    return max(1, end - round((config.start or 0) * reader.fps))
