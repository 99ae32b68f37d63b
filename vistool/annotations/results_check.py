"""Check results files before they are scored or submitted, and report all problems together."""

from __future__ import annotations

import gc
import io
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vistool.annotations.dataset import DataSet
from vistool.annotations.problems import Place, Problem
from vistool.errors import DataError, first_few
from vistool.formats.files import NOT_TAKEN, decode_json, plain, read_file
from vistool.formats.limits import UNPACKED_BYTES
from vistool.formats.masks.annotated import MaskError, check_rle
from vistool.formats.masks.runs import decode_runs
from vistool.formats.replacing import settle
from vistool.formats.results.files import RESULTS
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, Size, TrackSegmentation

# Exceptions of zipfile for damage, encryption and unknown compression methods.
UNZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError),
    *(LookupError, OverflowError, struct.error, zlib.error, lzma.LZMAError),
)
_DECODER = msgspec.json.Decoder(TrackSegmentation)


@dataclass(frozen=True, slots=True)
class CheckedResults:
    """The valid entries, and the problems of the file."""

    results: list[TrackSegmentation]
    problems: list[Problem]


def problems_in_results(
    path: Path, dataset: DataSet | None = None, *, on_progress: OnProgress = silent
) -> list[Problem]:
    """The problems of `check_results`; only the file's bytes and one entry are in memory."""
    check = _ResultsCheck(str(path), dataset)
    for _ in check.sound_entries(path, on_progress):
        pass
    return check.problems


def check_results(
    path: Path, dataset: DataSet | None = None, *, on_progress: OnProgress = silent
) -> CheckedResults:
    """Read a results file (`.json`, or a `.zip` for a server) and check every entry.

    Problems, both errors and warnings, are in the order of the entries.

    Args:
        dataset: the data set of the predictions; its tracks are not needed. None: entries of one
            video are compared with each other, which detects most of the same problems.

    Raises: DataError if the file has no list of results.
    """
    check = _ResultsCheck(str(path), dataset)
    with _without_collector():
        results = list(check.sound_entries(path, on_progress))
    return CheckedResults(results, check.problems)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the garbage collector off: scanning millions of masks that stay would take long."""
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            gc.enable()


def _results_bytes(path: Path, check: _ResultsCheck) -> bytes:
    """The JSON text of a results file, unpacked if it is a zip."""
    settle(path.parent)
    data = read_file(path, "results file")
    if not data.startswith(b"PK\x03\x04"):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(_results_member(path, archive, check))
    except UNZIP_ERRORS as error:
        raise DataError(f"{path}: a zip that cannot be unpacked: {error}") from None


def _results_member(path: Path, archive: zipfile.ZipFile, check: _ResultsCheck) -> zipfile.ZipInfo:
    files = [info for info in archive.infolist() if not info.is_dir()]
    found = [info for info in files if info.filename.rpartition("/")[2] == RESULTS]
    found = found or [info for info in files if info.filename.endswith(".json")]
    if not found:
        raise DataError(
            f"{path}: a zip of {len(files)} files, none of them {RESULTS}",
            hint=f"servers look for {RESULTS} at the top of the zip",
        )
    member = min(found, key=lambda info: info.filename.count("/"))
    if member.filename != RESULTS:
        check.error(
            "zip-layout",
            (),
            f"the zip has {member.filename!r}, but servers look for {RESULTS!r}",
            "pack the file itself, without its folder: zip -j out.zip FOLDER/results.json",
        )
    if len(files) > 1:
        check.warn("zip-layout", (), f"the zip has {len(files) - 1} files besides the results")
    if member.file_size > UNPACKED_BYTES.value:
        raise DataError(
            f"{path}: {member.filename} has {member.file_size} bytes when unpacked, too many",
            hint=UNPACKED_BYTES.hint,
        )
    return member


@dataclass(slots=True)
class _ResultsCheck:
    """The state of a check: the known videos and the problems so far."""

    file: str
    dataset: DataSet | None
    problems: list[Problem] = field(default_factory=list)
    _lengths: dict[int, int] = field(default_factory=dict)
    _sizes: dict[int, Size] = field(default_factory=dict)
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)
    _predicted: set[int] = field(default_factory=set)
    _categories: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if self.dataset is not None:
            self._lengths = {video.id: video.length for video in self.dataset.videos}
            self._sizes = {video.id: video.size for video in self.dataset.videos}
            if not self.dataset.class_agnostic:
                self._categories = frozenset(c.id for c in self.dataset.categories)

    def error(self, kind: str, place: Place, what: str, hint: str = "") -> None:
        """Add an error: the entry, or the file, cannot be scored."""
        self.problems.append(Problem("error", kind, self.file, place, what, hint))

    def warn(self, kind: str, place: Place, what: str) -> None:
        """Add a warning: the file can be scored, but this is probably a mistake."""
        self.problems.append(Problem("warning", kind, self.file, place, what))

    def sound_entries(self, path: Path, on_progress: OnProgress) -> Iterator[TrackSegmentation]:
        """The valid entries, one at a time; problems are added to `problems`."""
        entries = decode_json(_results_bytes(path, self), list[msgspec.Raw], str(path))
        if not isinstance(entries, list):
            raise DataError(f"{path}: holds a {type(entries).__name__} where a list should be")
        for index, raw in enumerate(entries):
            result = self._sound(raw) or self._examined(index, raw)
            if result is not None and self._is_new(index, result):
                yield result
            on_progress("checking results", index + 1, len(entries))
        self._check_coverage(len(entries))

    def _sound(self, raw: Any) -> TrackSegmentation | None:
        """The track, if a fast check finds no problem, as for nearly all entries; else None."""
        if not isinstance(raw, msgspec.Raw):
            return None
        try:
            result: TrackSegmentation = _DECODER.decode(raw)
        except NOT_TAKEN:
            return None
        video, masks = result["video_id"], [m for m in result["segmentations"] if m is not None]
        size = list(self._sizes.get(video, ()))
        fits = (
            self._lengths.get(video) == len(result["segmentations"])
            and (self._categories is None or result["category_id"] in self._categories)
            and 0 <= result["score"] <= 1
            and all([mask["size"] == size for mask in masks])  # noqa: C419 - much faster as a list
            and decode_runs(masks).sound.all()
        )
        if not fits:
            return None
        for mask in masks:
            mask["size"] = size  # one shared list; saves a seventh of the memory
        self._predicted.add(video)
        return result

    def _examined(self, index: int, raw: Any) -> TrackSegmentation | None:
        """The track after a full check; None, after adding its problems, if it has errors."""
        place: Place = (("result", index),)
        try:
            entry = plain(raw)
        except DataError as error:
            self.error("no-json", place, str(error))
            return None
        if not isinstance(entry, dict):
            self.error("no-object", place, f"a {type(entry).__name__}, not an object")
            return None
        kind = "video"
        if "image_id" in entry and "video_id" not in entry:  # COCO: a picture is a one-frame video
            kind, mask = "image", entry.get("segmentation")
            entry["video_id"] = entry["image_id"]
            entry["segmentations"] = None if mask is None else [mask]
        ids = [(kind, entry.get("video_id")), ("category", entry.get("category_id"))]
        place += tuple((name, value) for name, value in ids if type(value) is int)
        before = len(self.problems)
        self._check_ids(place, entry, kind)
        self._check_score(place, entry.get("score", "missing"))
        masks = self._check_masks(place, entry)
        if any(problem.severity == "error" for problem in self.problems[before:]):
            return None
        return TrackSegmentation(
            video_id=entry["video_id"],
            category_id=entry["category_id"],
            score=float(entry["score"]),
            segmentations=masks,
        )

    def _check_coverage(self, count: int) -> None:
        if count == 0:
            self.warn("empty", (), "no results in it")
        elif self.dataset is not None:
            without = sorted(self._lengths.keys() - self._predicted)
            if without:
                some = ", ".join(first_few(without, 10))
                self.warn(
                    "no-result",
                    (),
                    f"{len(without)} of {len(self._lengths)} videos have no result: {some}",
                )

    def _check_ids(self, place: Place, entry: Mapping[str, Any], kind: str) -> None:
        """Args: kind: "image" where the file calls a video of one frame so."""
        for key, name in (("video_id", f"{kind}_id"), ("category_id", "category_id")):
            if type(entry.get(key)) is not int:
                what = f"{name} is {entry.get(key, 'missing')!r}, not an id"
                self.error("no-number", place, what)
        video, category = entry.get("video_id"), entry.get("category_id")
        if type(video) is int:
            self._predicted.add(video)
            if self.dataset is not None and video not in self._lengths:
                what = (
                    f"{kind}_id {video} is not one of the data set's {len(self._lengths)} {kind}s"
                )
                self.error("unknown-video", place, what)
        known = self._categories
        if known is not None and type(category) is int and category not in known:
            self.error(
                "unknown-category",
                place,
                f"category_id {category} is not one of the data set's {len(known)} categories",
            )

    def _check_score(self, place: Place, score: Any) -> None:
        if type(score) not in (int, float) or not -math.inf < score < math.inf:
            self.error("score", place, f"its score is {score!r}, not a finite number")
        elif not 0 <= score <= 1:
            self.warn("score", place, f"its score {score:g} is outside 0 to 1")

    def _check_masks(self, place: Place, entry: Mapping[str, Any]) -> list[RLE | None]:
        masks, video = entry.get("segmentations"), entry.get("video_id")
        if not isinstance(masks, list):
            what = (
                "no segmentations"
                if masks is None
                else f"segmentations are a {type(masks).__name__}"
            )
            self.error("no-mask", place, what, "write one mask or null per frame")
            return []
        if type(video) is not int or (self.dataset is not None and video not in self._lengths):
            return []
        length = self._lengths.setdefault(video, len(masks))
        if len(masks) != length:
            whose = "its video has" if self.dataset else "an earlier result of this video has"
            self.error(
                "wrong-length",
                place,
                f"{len(masks)} masks, {whose} {length}{' frames' if self.dataset else ''}",
                "write null for frames where the track is not visible",
            )
        return [
            self._check_mask((*place, ("frame", frame)), mask, video)
            for frame, mask in enumerate(masks)
        ]

    def _check_mask(self, place: Place, mask: Any, video: int) -> RLE | None:
        if mask is None:
            return None
        hint = ""
        try:
            if not isinstance(mask, dict):
                raise MaskError(f"a {type(mask).__name__}, neither null nor size and counts")
            counts = mask.get("counts")
            if isinstance(counts, list):
                hint = "compress it: pycocotools.mask.frPyObjects(segmentation, height, width)"
                raise MaskError("uncompressed counts, a list of runs", "uncompressed-mask")
            return check_rle(mask, self._size_of(video, mask))
        except MaskError as error:
            self.error(error.kind, place, str(error), hint)
            return None

    def _size_of(self, video: int, mask: Mapping[str, Any]) -> Size:
        """The size of a video: from the data set, or from the first mask of the video."""
        stated = mask.get("size")
        if video not in self._sizes:
            if not isinstance(stated, list) or [type(side) for side in stated] != [int, int]:
                return Size(0, 0)
            self._sizes[video] = Size(*stated)
        return self._sizes[video]

    def _is_new(self, index: int, result: TrackSegmentation) -> bool:
        """False, after reporting it, if the entry repeats another; tracks without masks may."""
        codes = tuple([mask and mask["counts"] for mask in result["segmentations"]])
        if not any(codes):
            return True
        # All masks of a video have one size.
        key = hash((result["video_id"], result["category_id"], codes))
        if key not in self._seen:
            self._seen[key] = index, result["score"]
            return True
        first, score = self._seen[key]
        ids = ("video", result["video_id"]), ("category", result["category_id"])
        place: Place = (("result", index), *ids)
        if score == result["score"]:
            self.error("duplicate", place, f"repeats result {first}: same masks, score {score:g}")
        else:
            self.warn("duplicate", place, f"has the masks of result {first}, with another score")
        return score != result["score"]
