"""Visualize the tracks of a predicted video as a figure or a page. Does not import torch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistool.engine.draw.sheets import (
    COLUMNS,
    counted,
    drawn_small,
    regular_frames,
    require_suffix,
    save_picture,
)
from vistool.engine.read_video import load
from vistool.formats.files import refuse_existing
from vistool.formats.results.files import RESULTS, VideoMeta
from vistool.progress import OnProgress, silent
from vistool.rendering.contact_sheet import SheetRow, contact_sheet, framed, stacked
from vistool.rendering.overlay import as_png
from vistool.rendering.page import Facts, Page, Picture, Section, Table, write_page
from vistool.rendering.timeline import Lane, timeline
from vistool.structures import Track

RESULTS_SUFFIXES = (".png", ".html")
LANES = 60  # tracks of a timeline, at most: the highest-scoring
TIMELINE_WIDTH = 1940  # pixels


@dataclass(frozen=True, slots=True)
class ResultsView:
    """The parts of a figure or page of a predicted video."""

    meta: VideoMeta
    lanes: tuple[Lane, ...]  # one per track, by ascending id
    frames: tuple[SheetRow, ...]  # at regular times

    @property
    def heading(self) -> str:
        name = Path(self.meta.source).name
        tracks = counted(len(self.lanes), "track")
        return f"{name}: {counted(self.meta.length, 'frame')}, {tracks}"

    def timeline(self) -> np.ndarray:
        """[H, W, 3] uint8: the lanes of the highest-scoring tracks."""
        best = sorted(self.lanes, key=lambda lane: -lane.score)[:LANES]
        shown = sorted(best, key=lambda lane: lane.track_id)
        return framed(timeline(shown, *_span(self.meta), TIMELINE_WIDTH))


def results_file(path: Path) -> Path | None:
    """The path itself if it is a results file, or the results file in that folder; else None.

    Annotation files are JSON objects, results are lists.
    """
    if path.is_dir():
        return path / RESULTS if (path / RESULTS).exists() else None
    try:
        with path.open("rb") as file:
            return path if file.read(64).lstrip().startswith(b"[") else None
    except OSError:
        return None


def view_results(
    results: Path,
    *,
    source: Path | None = None,
    count: int = 12,
    conf: float = 0.0,
    on_progress: OnProgress = silent,
) -> ResultsView:
    """Frames at regular times with their tracks drawn, and a lane for every track.

    Args:
        results: results.json, or the folder that holds it; meta.json is beside it.
        source: the video; None: the path in meta.json, or a file of that name beside the results.
        count: number of frames.
        conf: tracks with a lower score are left out.

    Raises: DataError if the files or the video are missing, or do not belong together.
    """
    frames, captions = [], []
    with load(results, source=source) as video:
        wanted = set(regular_frames(video.meta.length, count))
        with contextlib.closing(video.pictures()) as pictures:
            for position, picture in enumerate(pictures):
                if position in wanted:
                    shown = video.frames[position].shown
                    drawn = [instance for instance in shown if instance.track.score >= conf]
                    frames.append(drawn_small(picture.image, drawn))
                    captions.append(f"{video.times[position]:.2f} s")
                on_progress("reading", position + 1, video.meta.length)
    rows = tuple(
        SheetRow("", "", frames[i : i + COLUMNS], captions[i : i + COLUMNS])
        for i in range(0, len(frames), COLUMNS)
    )
    tracks = sorted(video.shown_tracks, key=lambda track: track.id)
    lanes = [_lane(track, video.meta) for track in tracks if track.score >= conf]
    return ResultsView(video.meta, tuple(lanes), rows)


def save_results(view: ResultsView, output: Path, *, exist_ok: bool = False) -> Path:
    """Write one figure of frames and lanes as .png, or a page with a table of the tracks as .html.

    Args: exist_ok: replace an existing figure.
    Raises: UsageError for another suffix, or if the figure exists already.
    """
    require_suffix(output, *RESULTS_SUFFIXES)
    refuse_existing(output, exist_ok=exist_ok)
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


def _lane(track: Track, meta: VideoMeta) -> Lane:
    seen = np.zeros(meta.length, bool)
    seen[list(track.frames)] = True
    times = _intervals(seen[:: meta.frame_stride], meta)
    return Lane(track.id, track.class_name, track.score, times)


def _intervals(seen: np.ndarray, meta: VideoMeta) -> list[tuple[float, float]]:
    """Start and end, in seconds, of the runs of True in [L] bool; a frame lasts until the next."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
    times = [*meta.times[:: meta.frame_stride], _span(meta)[1]]
    return [(times[begin], times[stop]) for begin, stop in edges.reshape(-1, 2)]


def _span(meta: VideoMeta) -> tuple[float, float]:
    """Start and end of the results, in seconds."""
    last_frame = 1 / meta.fps if meta.fps else 0.0
    return meta.times[0], meta.times[-1] + last_frame
