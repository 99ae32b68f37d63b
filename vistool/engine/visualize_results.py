"""Visualize: what `predict` found in a video, as a figure or a page; no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistool.engine.render import SpooledResults
from vistool.engine.visualize import (
    COLUMNS,
    as_png,
    counted,
    drawn_small,
    regular_frames,
    save_picture,
)
from vistool.errors import DataError
from vistool.formats.results import (
    META,
    RESULTS,
    SegmentationSpool,
    VideoMeta,
    iterate_results,
    read_meta,
)
from vistool.formats.rle import area
from vistool.formats.video import VideoReader, open_video
from vistool.progress import OnProgress, silent
from vistool.rendering.contact_sheet import SheetRow, contact_sheet, framed, stacked
from vistool.rendering.page import Facts, Page, Picture, Section, Table, write_page
from vistool.rendering.timeline import Lane, timeline

LANES = 60  # tracks of a timeline, at most: the likeliest
TIMELINE_WIDTH = 1940  # pixels


@dataclass(frozen=True, slots=True)
class ResultsView:
    """What `predict` found in a video."""

    meta: VideoMeta
    lanes: tuple[Lane, ...]  # one a track, by increasing id
    frames: tuple[SheetRow, ...]  # at regular times

    @property
    def heading(self) -> str:
        name = Path(self.meta.source).name
        found = counted(len(self.lanes), "track")
        return f"{name}: {counted(self.meta.length, 'frame')}, {found}"

    def timeline(self) -> np.ndarray:
        """[H, W, 3] uint8: the lanes of the likeliest tracks."""
        likeliest = sorted(self.lanes, key=lambda lane: -lane.score)[:LANES]
        shown = sorted(likeliest, key=lambda lane: lane.track_id)
        return framed(timeline(shown, *_span(self.meta), TIMELINE_WIDTH))


def view_results(
    folder: Path,
    *,
    source: Path | None = None,
    count: int = 12,
    conf: float = 0.0,
    on_progress: OnProgress = silent,
) -> ResultsView:
    """Overlaid frames at regular times, and a lane for every track.

    Args:
        folder: with results.json and meta.json.
        source: the video; by default where meta.json says that it was.
        count: frames.
        conf: tracks with a lower score are left out.

    Raises: DataError if the files or the video are not there, or do not belong together.
    """
    meta = read_meta(folder / META)
    with (
        open_video(source or _source_of(folder, meta)) as reader,
        tempfile.TemporaryDirectory() as place,
        SegmentationSpool(Path(place)) as spool,
    ):
        results = SpooledResults(folder / RESULTS, spool, meta)
        results.read(meta, reader.size, conf)
        frames, captions = [], []
        for position, image in _frames_at(
            reader, meta, regular_frames(meta.length, count), on_progress
        ):
            frames.append(drawn_small(image, results.instances(position)))
            captions.append(f"{meta.times[position]:.2f} s")
        lanes = _lanes(folder / RESULTS, results, meta)
    rows = tuple(
        SheetRow("", "", frames[i : i + COLUMNS], captions[i : i + COLUMNS])
        for i in range(0, len(frames), COLUMNS)
    )
    return ResultsView(meta, tuple(sorted(lanes, key=lambda lane: lane.track_id)), rows)


def save_results(view: ResultsView, output: Path) -> Path:
    """Write one figure of frames and lanes: a PNG, or a page with a table of the tracks (.html).

    Raises: UsageError for another suffix.
    """
    if output.suffix.lower() == ".html":
        return write_page(output, _page(view))
    frames = contact_sheet(view.frames, view.heading)
    return save_picture(stacked([frames, view.timeline()], gap=0), output)


def _page(view: ResultsView) -> Page:
    meta, (start, end) = view.meta, _span(view.meta)
    facts = {
        "video": meta.source,
        "frames": f"{meta.length}, {meta.width}x{meta.height}, {end - start:.2f} s",
        "model": str(meta.model.get("name", "unknown")),
    }
    if meta.frame_stride > 1:
        facts["frames the model saw"] = f"every {meta.frame_stride}th"
    rows = [
        (
            lane.track_id,
            lane.label,
            lane.score,
            lane.seen[0][0] if lane.seen else None,
            lane.seen[-1][1] if lane.seen else None,
            sum(stop - begin for begin, stop in lane.seen),
        )
        for lane in view.lanes
    ]
    columns = ("track", "class", "score", "first seen, s", "last seen, s", "seen for, s")
    pictures = (
        Picture(as_png(contact_sheet(view.frames)), "image/png", "frames with tracks", wide=True),
        Picture(as_png(view.timeline()), "image/png", "when every track is seen", wide=True),
    )
    return Page(
        view.heading,
        (
            Section("frames", "Frames and tracks", (Facts(facts), *pictures)),
            Section("tracks", "Tracks", (Table("All tracks", columns, rows, digits=2),)),
        ),
    )


def _source_of(folder: Path, meta: VideoMeta) -> Path:
    """The video of some results. Raises: DataError if it is not where it was."""
    for place in (Path(meta.source), folder / Path(meta.source).name):
        if place.exists():
            return place
    raise DataError(
        f"{meta.source}: the video of {folder} is not there",
        hint="say where it is: --source VIDEO",
    )


def _frames_at(
    reader: VideoReader, meta: VideoMeta, wanted: Sequence[int], on_progress: OnProgress
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames at some positions of the results. Raises: DataError if the video ends before."""
    left = set(wanted)
    begin = meta.times[0] if meta.times else 0.0
    for frame in reader.frames(start=max(0.0, begin - 1 / reader.fps)):
        position = frame.index - meta.first_frame
        on_progress("reading", max(0, position), wanted[-1])
        if position in left:
            left.remove(position)
            yield position, frame.image
        if not left:
            return
    raise DataError(
        f"{reader.path}: ends before frame {min(left)} of the results",
        hint="are these the results of this video?",
    )


def _lanes(path: Path, results: SpooledResults, meta: VideoMeta) -> list[Lane]:
    """The tracks that are drawn."""
    lanes = []
    for position, entry in enumerate(iterate_results(path)):
        track = results.tracks.get(position)
        if track is None:
            continue
        masks = entry["segmentations"][:: meta.frame_stride]
        seen = np.array([mask is not None and area(mask) > 0 for mask in masks], bool)
        lanes.append(Lane(track.track_id, track.label, track.score, _intervals(seen, meta)))
    return lanes


def _intervals(seen: np.ndarray, meta: VideoMeta) -> list[tuple[float, float]]:
    """From and to, in seconds, of the runs of True; a frame lasts until the next one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
    times = [*meta.times[:: meta.frame_stride], _span(meta)[1]]
    return [(times[begin], times[stop]) for begin, stop in edges.reshape(-1, 2)]


def _span(meta: VideoMeta) -> tuple[float, float]:
    """First and last moment of the results, in seconds."""
    last_frame = 1 / meta.fps if meta.fps else 0.0
    return meta.times[0], meta.times[-1] + last_frame
