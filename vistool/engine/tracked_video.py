"""A video with its tracks: the result of `predict`, and the source of every output."""

from __future__ import annotations

import base64
import contextlib
import html
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, overload

import numpy as np

from vistool.config import OverlayOptions, OverlayStyle, from_mapping
from vistool.engine.writers import (
    OUTPUTS,
    check_kinds,
    may_be_whole,
    refuse_to_replace,
    require_mp4,
    save_results,
    write_all,
    write_outputs,
    write_overlay,
)
from vistool.errors import DataError, UsageError, VistoolError
from vistool.formats.files import refuse_existing, text_as_path
from vistool.formats.masks.rle import bounding_box, decode_mask
from vistool.formats.results.files import META, RESULTS, Category, VideoMeta
from vistool.formats.results.spool import SegmentationSpool
from vistool.formats.threads import prefetch
from vistool.formats.video.reader import VideoReader
from vistool.progress import OnProgress, silent
from vistool.rendering.overlay import as_png, draw_tracks
from vistool.structures import Instance, Size, Track, TrackSegmentation, VideoFrame

if TYPE_CHECKING:
    import supervision

FRAMES_AHEAD = 4  # that are decoded while others are written


@dataclass(frozen=True, slots=True, repr=False)
class TrackedFrame:
    """One frame of a video with the tracks on it.

    >>> with vistool.predict("squares.mp4", model=model) as video:
    ...     frame = video.frames[5]
    ...     picture = frame.plot()
    >>> frame
    <TrackedFrame 5 at 0.50 s: red 1, blue 2, green 3>
    >>> frame.masks.shape, frame.boxes.shape, frame.class_names.tolist()
    ((3, 96, 160), (3, 4), ['red', 'blue', 'green'])
    """

    index: int  # position among the decoded frames of the source
    time: float  # seconds from the first frame of the source
    seen: bool  # False: skipped by the frame stride, so without predictions
    size: Size
    shown: tuple[
        Instance, ...
    ]  # the instances to draw, by increasing id: those of the last seen frame
    get_picture: Callable[[], VideoFrame] = field(repr=False, compare=False)

    def __repr__(self) -> str:
        tracks = ", ".join(f"{track.class_name} {track.id}" for track, _ in self.instances)
        return f"<TrackedFrame {self.index} at {self.time:.2f} s: {tracks or 'nothing'}>"

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The tracks on this frame, by increasing id; none if the frame was not seen."""
        return self.shown if self.seen else ()

    @property
    def image(self) -> np.ndarray:
        """[H, W, 3] uint8 RGB, a copy.

        Raises: DataError if the source has changed; UsageError if pictures were given as arrays
            and not kept.
        """
        return self.get_picture().image.copy()

    @property
    def masks(self) -> np.ndarray:
        """[N, H, W] bool, in the order of the instances."""
        masks = [decode_mask(rle) for _, rle in self.instances]
        return np.stack(masks) if masks else np.zeros((0, *self.size), bool)

    @property
    def boxes(self) -> np.ndarray:
        """[N, 4] float32: left, top, right, bottom in pixels; right = left + width."""
        boxes = np.array([bounding_box(rle) for _, rle in self.instances], np.float32)
        boxes = boxes.reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    @property
    def track_ids(self) -> np.ndarray:
        """[N] int64, increasing."""
        return np.array([track.id for track, _ in self.instances], np.int64)

    @property
    def class_ids(self) -> np.ndarray:
        """[N] int64: category ids, as in results files."""
        return np.array([track.class_id for track, _ in self.instances], np.int64)

    @property
    def class_names(self) -> np.ndarray:
        """[N] str."""
        return np.array([track.class_name for track, _ in self.instances], np.str_)

    @property
    def scores(self) -> np.ndarray:
        """[N] float64 in [0, 1]: the tracks' scores, equal on all their frames unless streamed."""
        return np.array([track.score for track, _ in self.instances], np.float64)

    def plot(self, **style: Unpack[OverlayOptions]) -> np.ndarray:
        """The frame with its tracks drawn as in the overlay: [H, W, 3] uint8 RGB.

        Raises: as `image`; UsageError for an unknown style.
        """
        return self.drawn(from_mapping(style, OverlayStyle, where="style"))

    def drawn(self, style: OverlayStyle, conf: float = 0.0) -> np.ndarray:
        """`plot`, without tracks whose score is below `conf`."""
        shown = [(track, rle) for track, rle in self.shown if track.score >= conf]
        masks = (decode_mask(rle) for _, rle in shown)
        picture = self.get_picture().image
        return draw_tracks(picture, [track for track, _ in shown], masks, style)

    def to_supervision(self) -> supervision.Detections:
        """The instances for the annotators and counters of the `supervision` package.

        As in that package, boxes include their right and bottom edges.

        Raises: UsageError if the package is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError:
            hint = "pip install supervision"
            raise UsageError("the package supervision is not installed", hint=hint) from None
        return supervision.Detections(
            xyxy=self.boxes - np.array([0, 0, 1, 1], np.float32),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.class_ids,
            tracker_id=self.track_ids,
            data={"class_name": self.class_names},
        )

    def _repr_png_(self) -> bytes | None:
        """The picture for a notebook; None if there is none."""
        try:
            return as_png(self.plot())
        except VistoolError:
            return None

    def with_picture(self, picture: VideoFrame) -> TrackedFrame:
        """The same frame with its picture in memory."""
        return replace(self, get_picture=lambda: picture)

    def as_dict(self) -> dict[str, object]:
        """The content of a line of frames.jsonl."""
        instances = [
            {
                "track_id": track.id,
                "class_name": track.class_name,
                "score": track.score,
                "segmentation": rle,
            }
            for track, rle in self.instances
        ]
        return {"index": self.index, "time": self.time, "seen": self.seen, "instances": instances}


class TrackedVideo:
    """The tracks of a video, and its frames with the tracks on them.

    Masks are on disk, so memory does not grow with the video. They are deleted by `close`, at the
    end of a `with` block, at garbage collection, and at the end of the program.

    >>> video = vistool.predict("squares.mp4", model=model)
    >>> video
    <TrackedVideo squares.mp4: 14 frames, 160x96, 3 tracks>
    >>> best = video.tracks[0]
    >>> best.class_name, round(best.score, 2), len(best.frames)
    ('red', 0.95, 14)
    >>> [frame.track_ids.tolist() for frame in video.frames[3:5]]
    [[1, 2], [1, 2, 3]]
    >>> sorted(path.name for path in video.save("out", also=["csv"]).iterdir())
    ['meta.json', 'overlay.mp4', 'results.json', 'tracks.csv']
    >>> video.render("again.mp4", alpha=0.3, scores=False).name
    'again.mp4'
    >>> video.close()
    """

    def __init__(
        self,
        meta: VideoMeta,
        tracks: Sequence[tuple[Track, int]],
        spool: SegmentationSpool,
        open_source: Callable[[], VideoReader],
        *,
        name: str,
        resources: contextlib.ExitStack | None = None,
    ) -> None:
        """Combine the parts.

        Args:
            tracks: in the order of results.json, each with its number in the spool.
            open_source: called when the first picture is needed.
            name: of the results, for messages.
            resources: closed with the video, such as the spool.
        """
        self.meta = meta
        self.name = name
        self.tracks = tuple(track for track, _ in tracks)  # the one with the highest score first
        self._numbers = tuple(number for _, number in tracks)
        self._drawn = _one_class_each(tracks)
        self._spool = spool
        self._open_source = open_source
        self._reader: VideoReader | None = None
        self._pictures: Generator[VideoFrame, None, None] | None = None
        self._last: tuple[int, VideoFrame] | None = None  # the last picture and its position
        self._resources = resources or contextlib.ExitStack()
        # The stack must not refer to this object, or it would keep it alive.
        self._finish = weakref.finalize(self, self._resources.close)

    def __enter__(self) -> TrackedVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the masks; may be called again."""
        self._finish()

    def __eq__(self, other: object) -> bool:
        """Equal facts, tracks, and masks on every frame."""
        if not isinstance(other, TrackedVideo):
            return NotImplemented
        return (
            self.meta == other.meta
            and self.tracks == other.tracks
            and all(a == b for a, b in zip(self.frames, other.frames, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        name, size = Path(self.meta.source).name, f"{self.meta.width}x{self.meta.height}"
        counts = f"{self.meta.length} frames, {size}, {len(self.tracks)} tracks"
        return f"<TrackedVideo {name}: {counts}>"

    def _repr_html_(self) -> str:
        """HTML for a notebook: the first frame with the best track, and a table of all tracks."""
        rows = [
            f"<tr><td>{track.id}<td>{html.escape(track.class_name)}<td>{track.score:.2f}"
            f"<td>{len(track.frames)}<td>{self.times[track.frames[0]]:.2f} s"
            for track in self.tracks
            if track.frames
        ]
        picture = ""
        with contextlib.suppress(VistoolError):  # it may be closed, or have no pictures
            png = as_png(self.frames[self.tracks[0].frames[0] if rows else 0].plot())
            picture = f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        head = "<tr><th>track<th>class<th>score<th>frames<th>from"
        return f"<p>{html.escape(repr(self))}</p>{picture}<table>{head}{''.join(rows)}</table>"

    @property
    def size(self) -> Size:
        """The size of every frame and mask in pixels."""
        return Size(self.meta.height, self.meta.width)

    @property
    def times(self) -> Sequence[float]:
        """The time of every frame, in seconds from the first frame of the source."""
        return self.meta.times

    @property
    def categories(self) -> Sequence[Category]:
        """The classes that tracks may have."""
        return self.meta.categories

    @property
    def shown_tracks(self) -> tuple[Track, ...]:
        """Every track once, as its most likely class."""
        return tuple(self._drawn.values())

    @property
    def frames(self) -> TrackedFrames:
        """The frames of the chosen range, each read from disk on access."""
        return TrackedFrames(self)

    def save(
        self,
        folder: str | Path,
        *,
        overlay: bool = True,
        also: Sequence[str] = (),
        exist_ok: bool = False,
        on_progress: OnProgress = silent,
    ) -> Path:
        """Write results.json, meta.json and the requested outputs into a folder.

        Args:
            overlay: write overlay.mp4.
            also: what `vistool predict --save` takes: csv, jsonl, mots, davis, cutouts.
            exist_ok: replace the results that are there.

        Returns: the folder.
        Raises: UsageError for what would replace the source, or other results without `exist_ok`,
            or those of a whole video by those of a part; VistoolError for what cannot be written,
            after all that can.
        """
        place, kinds = Path(folder), list(dict.fromkeys([*also, *(["overlay"] if overlay else [])]))
        check_kinds(kinds)
        refuse_to_replace([text_as_path(self.meta.source)], [place])
        names = [RESULTS, META, *(name for kind in kinds for name in OUTPUTS[kind].names)]
        for name in names:
            refuse_existing(place / name, exist_ok=exist_ok)
        if not self.meta.complete and may_be_whole(place):
            raise UsageError(f"{place}: the results of a whole video are in it, these are a part")
        place.mkdir(parents=True, exist_ok=True)
        save_results(self, place, kinds)
        write_outputs(kinds, self, place, on_progress)
        return place

    def render(
        self,
        path: str | Path,
        *,
        conf: float = 0.0,
        exist_ok: bool = False,
        on_progress: OnProgress = silent,
        **style: Unpack[OverlayOptions],
    ) -> Path:
        """Draw the tracks on every frame; writes an mp4 with the source's sound.

        Args: conf: tracks with a lower score are not drawn; exist_ok: replace a file that is there.
        Returns: the path.
        Raises: UsageError, also for a file that is there, and always if that is the source;
            DataError if the source is not that video any more.
        """
        path = Path(path)
        require_mp4(path)
        if path.exists() and self.reader.path.exists() and path.samefile(self.reader.path):
            raise UsageError(f"{path}: would replace the source", hint="choose another --output")
        refuse_existing(path, exist_ok=exist_ok)
        checked = from_mapping(style, OverlayStyle, where="style")
        overlay = write_overlay(path, self, checked, conf)
        for error in write_all({"overlay": overlay}, {"overlay"}, self, on_progress).values():
            raise error
        return path

    def entries(self) -> Iterator[TrackSegmentation]:
        """The entries of results.json, one track at a time with all its masks."""
        for track, number in zip(self.tracks, self._numbers, strict=True):
            if track.frames:
                yield TrackSegmentation(
                    video_id=self.meta.video_id,
                    category_id=track.class_id,
                    score=track.score,
                    segmentations=self._spool.segmentations(number, self.meta.length),
                )

    def instances(self, position: int) -> tuple[Instance, ...]:
        """The tracks on a frame of the chosen range, by increasing id."""
        masks = self._spool.frame(position)
        found = [Instance(self._drawn[n], rle) for n, rle in masks if n in self._drawn]
        return tuple(sorted(found, key=lambda instance: instance.track.id))

    @property
    def reader(self) -> VideoReader:
        """The source. Raises: DataError if it is missing or has another size."""
        if self._reader is None:
            reader = self._resources.enter_context(self._open_source())
            if reader.size != self.size:
                raise DataError(
                    f"{self.name}: its masks are {self.size.width}x{self.size.height}, "
                    f"the source is {reader.size.width}x{reader.size.height}",
                    hint="are these the results of this video?",
                )
            self._reader = reader
        return self._reader

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the part of the source that has been read, one line each."""
        return tuple(self.reader.warnings)

    def pictures(self) -> Generator[VideoFrame, None, None]:
        """Decode the frames of the chosen range, a few ahead; the caller closes the generator.

        Raises: DataError at the end if the source has fewer or more frames.
        """
        return prefetch(_decoded(self.reader, self.meta, self.name), FRAMES_AHEAD)

    def picture(self, position: int) -> VideoFrame:
        """One decoded frame of the chosen range; in forward order, each is decoded once.

        Raises: DataError if the source does not have this frame.
        """
        if self._last is None or position < self._last[0]:
            if self._pictures is not None:
                self._pictures.close()
            self._pictures, self._last = _decoded(self.reader, self.meta, self.name), None
        assert self._pictures is not None
        first = 0 if self._last is None else self._last[0] + 1
        try:
            for at in range(first, position + 1):
                self._last = at, next(self._pictures)
        except BaseException:
            self._last = None  # so that the next call starts from the first frame
            raise
        assert self._last is not None
        return self._last[1]


class TrackedFrames(Sequence[TrackedFrame]):
    """The frames of a tracked video, created on access."""

    def __init__(self, video: TrackedVideo) -> None:
        self._video = video

    def __len__(self) -> int:
        return self._video.meta.length

    @overload
    def __getitem__(self, position: int) -> TrackedFrame: ...
    @overload
    def __getitem__(self, position: slice) -> list[TrackedFrame]: ...
    def __getitem__(self, position: int | slice) -> TrackedFrame | list[TrackedFrame]:
        places = range(len(self))[position]
        if isinstance(places, range):
            return [self[place] for place in places]
        stride = self._video.meta.frame_stride
        return self._frame(places, self._video.instances(places - places % stride))

    def __iter__(self) -> Iterator[TrackedFrame]:
        shown: tuple[Instance, ...] = ()
        for position in range(len(self)):
            if position % self._video.meta.frame_stride == 0:
                shown = self._video.instances(position)
            yield self._frame(position, shown)

    def _frame(self, position: int, shown: tuple[Instance, ...]) -> TrackedFrame:
        video = self._video
        return TrackedFrame(
            index=video.meta.first_frame + position,
            time=video.meta.times[position],
            seen=position % video.meta.frame_stride == 0,
            size=video.size,
            shown=shown,
            get_picture=partial(video.picture, position),
        )


def _one_class_each(tracks: Sequence[tuple[Track, int]]) -> dict[int, Track]:
    """Number in the spool -> track to draw; a track with several classes is drawn as its best."""
    best: dict[int, tuple[Track, int]] = {}
    for track, number in tracks:
        if track.id not in best or track.score > best[track.id][0].score:
            best[track.id] = track, number
    return {number: track for track, number in best.values()}


def _decoded(reader: VideoReader, meta: VideoMeta, name: str) -> Generator[VideoFrame, None, None]:
    """The frames of the chosen range. Raises: DataError at the end if there are fewer or more."""

    def other_video(found: str) -> DataError:
        return DataError(
            f"{name}: results of {meta.length} frames, but {reader.path} has {found}",
            hint="are these the results of this video?",
        )

    done = 0
    start = meta.times[0] if meta.times else 0.0
    # Start one frame early, then select by number: a copy of the source may round its time stamps.
    for frame in reader.frames(start=max(0.0, start - 1 / reader.fps)):
        position = frame.index - meta.first_frame
        if position >= meta.length:
            if meta.complete and meta.settings.get("end") is None:
                raise other_video("more")
            return
        if position >= 0:
            done += 1
            yield frame
    if done < meta.length:
        raise other_video(f"only {done}")
