"""Visualize: contact sheets of labelled videos and of results; no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from vistool.engine.render import SpooledResults
from vistool.errors import DataError, UsageError
from vistool.formats.atomic import atomic_path
from vistool.formats.dataset import (
    AnnotatedTrack,
    AnnotatedVideo,
    DataSet,
    frame_file,
    group_tracks,
)
from vistool.formats.detect import read_dataset
from vistool.formats.results import (
    META,
    RESULTS,
    SegmentationSpool,
    VideoMeta,
    iterate_results,
    read_meta,
)
from vistool.formats.rle import area, decode_mask
from vistool.formats.video import VideoReader, open_video
from vistool.progress import OnProgress, silent
from vistool.rendering.contact_sheet import SheetRow, contact_sheet, fitting, framed, stacked
from vistool.rendering.overlay import DrawnInstance, OverlayStyle, draw_tracks
from vistool.rendering.page import Facts, Page, Picture, Section, Table, write_page
from vistool.rendering.timeline import Lane, timeline
from vistool.structures import Size

STYLE = OverlayStyle(alpha=0.4, scores=False)
COLUMNS = 6  # frames of a labelled video, and pictures in a row of results
LANES = 60  # tracks of a timeline, at most: the likeliest
TIMELINE_WIDTH = 1940  # pixels
NAMED = 4  # classes in a title, at most


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is to be seen, row by row."""

    heading: str
    rows: tuple[SheetRow, ...]


def listed(names: Sequence[str], everything: Sequence[str]) -> str:
    """Some names for a title.

    >>> listed(["cat"], ["cat", "dog"]), listed(["cat"], ["cat"]), listed([], ["cat"])
    ('cat', 'all classes', 'no class')
    """
    if not names:
        return "no class"
    if len(names) == len(everything):
        return "all classes"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def dataset_sheet(
    path: Path, *, videos: Sequence[str] = (), count: int = 8, seed: int | None = None
) -> Sheet:
    """Labelled pictures or videos with their masks.

    Args:
        videos: names or ids of those to show; empty: the first `count`.
        seed: show `count` random ones instead of the first.

    Raises: DataError for a data set that cannot be read, UsageError for a video that is not in it.
    """
    dataset = read_dataset(path)
    tracks = group_tracks(dataset.tracks)
    chosen = _chosen(dataset, videos, count, seed)
    return Sheet(
        f"{dataset.path.name}: {len(chosen)} of {len(dataset.videos)}",
        tuple(_dataset_row(dataset, video, tracks[video.id]) for video in chosen),
    )


def _chosen(
    dataset: DataSet, wanted: Sequence[str], count: int, seed: int | None
) -> list[AnnotatedVideo]:
    if wanted:
        known = {video.name: video for video in dataset.videos}
        known |= {str(video.id): video for video in dataset.videos}
        for name in wanted:
            if name not in known:
                raise UsageError(
                    f"{dataset.path}: no video {name!r} in it",
                    hint=f"there are {', '.join(v.name for v in dataset.videos[:8])}...",
                )
        return [known[name] for name in wanted]
    if seed is None:
        return list(dataset.videos[:count])
    order = np.random.default_rng(seed).permutation(len(dataset.videos))[:count]
    return [dataset.videos[i] for i in sorted(order.tolist())]


def _dataset_row(dataset: DataSet, video: AnnotatedVideo, tracks: list[AnnotatedTrack]) -> SheetRow:
    names = {category.id: category.name for category in dataset.categories}
    frames = _regular(video.length, COLUMNS)
    pictures = []
    for frame in frames:
        file = frame_file(dataset.frames, video.file_names[frame])
        drawn = [
            DrawnInstance(n, _track_name(names, track), 1.0, decode_mask(rle))
            for n, track in enumerate(tracks, start=1)
            if (rle := track.segmentations[frame]) is not None
        ]
        pictures.append(_drawn_small(_read(file, video.size), drawn))
    labelled = [names[i] for i in sorted(video.exhaustive_ids & names.keys())]
    complete = list(names.values()) if video.exhaustive else labelled
    return SheetRow(
        f"{video.id} {video.name}: {_counted(video.length, 'frame')}, "
        f"{_counted(len(tracks), 'instance')}",
        f"labels are complete for {listed(complete, list(names.values()))}",
        pictures,
        [f"frame {frame}" for frame in frames] if video.length > 1 else [],
    )


def _drawn_small(image: np.ndarray, instances: Sequence[DrawnInstance]) -> np.ndarray:
    """A frame as large as a sheet shows it, with labels that can be read at that size."""
    small = fitting(image)
    size = (small.shape[1], small.shape[0])
    shrunk = [
        replace(
            instance,
            mask=cv2.resize(
                instance.mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST
            ).astype(bool),
        )
        for instance in instances
    ]
    return draw_tracks(small, shrunk, STYLE)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _track_name(names: dict[int, str], track: AnnotatedTrack) -> str:
    name = names.get(track.category_id, f"category {track.category_id}")
    return f"crowd of {name}" if track.is_crowd else name


def _read(file: Path, size: Size) -> np.ndarray:
    """[H, W, 3] uint8 RGB. Raises: DataError."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{file}: missing, or not a readable picture")
    if image.shape[:2] != size:
        height, width = image.shape[:2]
        raise DataError(
            f"{file}: is {width}x{height}, but its annotations say {size.width}x{size.height}"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _regular(length: int, count: int) -> list[int]:
    """Frames at regular distances, the first and the last among them.

    >>> _regular(11, 3), _regular(2, 3), _regular(5, 1)
    ([0, 5, 10], [0, 1], [2])
    """
    if count == 1:
        return [length // 2]
    return sorted({round(step) for step in np.linspace(0, length - 1, min(count, length))})


@dataclass(frozen=True, slots=True)
class ResultsView:
    """What `predict` found in a video."""

    meta: VideoMeta
    lanes: tuple[Lane, ...]  # one a track, by increasing id
    frames: tuple[SheetRow, ...]  # at regular times

    @property
    def heading(self) -> str:
        name = Path(self.meta.source).name
        found = _counted(len(self.lanes), "track")
        return f"{name}: {_counted(self.meta.length, 'frame')}, {found}"

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
        for position, image in _frames_at(reader, meta, _regular(meta.length, count), on_progress):
            frames.append(_drawn_small(image, results.instances(position)))
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
        Picture(_png(contact_sheet(view.frames)), "image/png", "frames with tracks", wide=True),
        Picture(_png(view.timeline()), "image/png", "when every track is seen", wide=True),
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


def save_sheet(sheet: Sheet, output: Path) -> list[Path]:
    """Write one PNG; where `output` has no suffix, a PNG a row into that folder."""
    if output.suffix:
        return [save_picture(contact_sheet(sheet.rows, sheet.heading), output)]
    return [
        save_picture(contact_sheet([row]), output / f"{number:04}.png")
        for number, row in enumerate(sheet.rows)
    ]


def save_picture(picture: np.ndarray, output: Path) -> Path:
    """Write [H, W, 3] uint8 RGB as PNG. Raises: UsageError for another suffix."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output}: such figures are written as .png")
    with atomic_path(output) as temporary:
        temporary.write_bytes(_png(picture))
    return output


def _png(picture: np.ndarray) -> bytes:
    _, code = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return code.tobytes()
