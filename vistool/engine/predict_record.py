"""What `predict` notes of a video while it runs, and the results it writes in the end."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from vistool.engine.device import versions
from vistool.engine.predict_job import PredictJob
from vistool.engine.save import remove_extras, save_extras
from vistool.engine.segment import SegmentedFrame, Segmenter
from vistool.formats.atomic import atomic_path
from vistool.formats.results import (
    META,
    OVERLAY,
    RESULTS,
    Category,
    SegmentationSpool,
    TrackMeta,
    VideoMeta,
    path_as_text,
    write_meta,
    write_results,
)
from vistool.formats.rle import encode_mask
from vistool.formats.video import VideoReader
from vistool.structures import TrackSegmentation
from vistool.tracking.postprocess import TrackClass, masks_at

VIDEO_ID = 1  # every video has a results file of its own


class VideoRecord:
    """The final frames of a video: masks on disk, time stamps in memory, 8 bytes each."""

    def __init__(self, job: PredictJob, reader: VideoReader, spool: SegmentationSpool) -> None:
        self._job, self._reader, self._spool = job, reader, spool
        self._first_frame = 0
        self._times = array("d")
        self._overlaps = job.overlaps()

    @property
    def length(self) -> int:
        """The number of frames that are complete."""
        return len(self._times)

    def add(self, frame: SegmentedFrame) -> None:
        if not self._times:
            self._first_frame = frame.index
        if frame.tracks is not None:
            if self._overlaps is not None:
                self._overlaps.add(frame.tracks)
            for track_id, mask in masks_at(frame.tracks, frame.size):
                self._spool.add(self.length, track_id, encode_mask(mask))
        self._times.append(frame.time)

    def write_partial(self, folder: Path, segmenter: Segmenter) -> None:
        """Write what there is, but for what takes long: pictures."""
        meta = self.write(folder, segmenter, complete=False)
        quick = [kind for kind in self._job.config.save if kind != "cutouts"]
        save_extras(quick, folder, self._spool, meta, self._reader)

    def write(self, folder: Path, segmenter: Segmenter, *, complete: bool) -> VideoMeta:
        """Write results.json and meta.json; returns the latter."""
        visible = set(self._spool.tracks())
        found = self._job.results(segmenter.class_probs())
        results = [r for r in self._job.reported(found, self._overlaps) if r.track_id in visible]
        tracks: list[TrackMeta] = []
        with (
            atomic_path(folder / META) as new_meta,
            atomic_path(folder / RESULTS) as new_results,
        ):
            write_results(new_results, self._entries(results, tracks))
            meta = self._meta(segmenter, tracks, complete)
            write_meta(new_meta, meta)
            # All is on disk. What an earlier run left must not stand beside it.
            remove_extras(folder)
            for name in (OVERLAY, META):
                (folder / name).unlink(missing_ok=True)
        return meta

    def _entries(
        self, results: Sequence[TrackClass], tracks: list[TrackMeta]
    ) -> Iterator[TrackSegmentation]:
        """One entry at a time; adds what the format has no field for to `tracks`."""
        ids = self._job.loaded.header.config.ids_of_classes()
        for result in results:
            masks = self._spool.segmentations(result.track_id, self.length)
            visible = [i for i, mask in enumerate(masks) if mask is not None]
            if not visible:
                continue
            category = ids[result.label]
            tracks.append(
                TrackMeta(
                    track_id=result.track_id,
                    category_id=category,
                    score=result.score,
                    first_frame=visible[0],
                    last_frame=visible[-1],
                )
            )
            yield TrackSegmentation(
                video_id=VIDEO_ID, category_id=category, score=result.score, segmentations=masks
            )

    def _meta(self, segmenter: Segmenter, tracks: list[TrackMeta], complete: bool) -> VideoMeta:
        header = self._job.loaded.header
        config = self._job.config
        used = {
            "max_overlap": self._job.max_overlap,
            "clip_length": segmenter.clip_length or "all",
            "clip_stride": segmenter.clip_stride,
            "size": segmenter.short_side,
            "batch": segmenter.batch,
            "device": str(segmenter.device),
            "precision": str(segmenter.dtype).removeprefix("torch."),
        }
        return VideoMeta(
            source=path_as_text(self._reader.path.absolute()),
            video_id=VIDEO_ID,
            width=self._reader.size.width,
            height=self._reader.size.height,
            length=self.length,
            complete=complete,
            first_frame=self._first_frame,
            times=self._times.tolist(),
            frame_stride=config.frame_stride,
            rotation=self._reader.rotation,
            fps=self._reader.fps,
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
            tracks=tracks,
        )
