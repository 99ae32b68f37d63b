"""Holding out a part of a data set: whole videos, by a seed, every category on both sides."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vistool.data.frames import bring_frames
from vistool.errors import UsageError
from vistool.formats.atomic import atomic_path
from vistool.formats.coco_json import kind_of_parts, read_coco_json
from vistool.formats.dataset import group_tracks
from vistool.formats.detect import annotation_file
from vistool.formats.json_bytes import decode_json, encode_json, plain
from vistool.progress import OnProgress, silent

ATTEMPTS = 50  # draws, where one leaves a category on one side only
NOTHING = -1  # stands for the category of a video without annotations


@dataclass(frozen=True, slots=True)
class Split:
    """Two annotation files and what is in them."""

    kept: Path
    held_out: Path
    num_kept: int  # videos, or pictures
    num_held_out: int
    one_sided: tuple[str, ...]  # categories of two videos or more that are on one side only
    missing_files: int  # frames that are not there; their names are kept


def split_dataset(
    path: Path,
    fraction: float,
    seed: int,
    folder: Path | None = None,
    *,
    frames: Path | None = None,
    on_progress: OnProgress = silent,
) -> Split:
    """Write `NAME-train.json` and `NAME-val.json`; ids and all other fields stay as they are.

    Args:
        folder: for the two files; None: where the annotation file lies. From a folder that is not
            above the frames they are linked, as `bring_frames` does.

    Raises: DataError for a set that training would refuse, UsageError if it cannot be divided.
    """
    source = annotation_file(path)
    dataset = read_coco_json(source, frames=frames, on_progress=on_progress)
    if len(dataset.videos) < 2 or not 0 < fraction < 1:
        raise UsageError(
            f"{source}: {len(dataset.videos)} videos or pictures cannot be split by {fraction:g}",
            hint="a split needs two or more of them, and a fraction between 0 and 1",
        )
    folder = folder or source.parent
    by_video = group_tracks(dataset.tracks)
    members = [frozenset(t.category_id for t in by_video[v.id]) for v in dataset.videos]
    chosen = hold_out(members, fraction, seed)
    brought, missing = bring_frames(dataset, folder, on_progress)
    # Both names of every file, video by video.
    renamed = {
        old: new
        for before, after in zip(dataset.videos, brought.videos, strict=True)
        for old, new in zip(before.file_names, after.file_names, strict=True)
    }
    ids = [video.id for video in dataset.videos]
    held = {ids[position] for position in chosen}
    parts = {"train": frozenset(ids) - held, "val": frozenset(held)}
    raw = decode_json(source.read_bytes(), dict[str, msgspec.Raw], str(source))
    content = _with_plain_lists(raw)
    files = {name: _part(content, wanted, renamed) for name, wanted in parts.items()}
    written = sum(len(part["annotations"]) for part in files.values())
    assert written == len(content["annotations"]), "every annotation is in one of the two"
    for name, part in files.items():
        with atomic_path(folder / f"{source.stem}-{name}.json") as temporary:
            temporary.write_bytes(encode_json(part) + b"\n")
    names = {category.id: category.name for category in dataset.categories}
    return Split(
        kept=folder / f"{source.stem}-train.json",
        held_out=folder / f"{source.stem}-val.json",
        num_kept=len(ids) - len(held),
        num_held_out=len(held),
        one_sided=tuple(names[id_] for id_ in sorted(one_sided(members, chosen))),
        missing_files=missing,
    )


def hold_out(members: Sequence[frozenset[int]], fraction: float, seed: int) -> frozenset[int]:
    """Which of N videos to hold out: about `fraction` of all, and of the videos of every category.

    Categories that two videos or more have end up on both sides wherever that is possible; for
    that, more are held out than asked for, if it must be. The same arguments give the same videos.

    Args: members: the categories in each video.
    """
    rng = np.random.default_rng(seed)
    best: frozenset[int] = frozenset()
    fewest = None
    for _ in range(ATTEMPTS):
        chosen = _Draw(members, fraction, rng).run()
        missed = len(one_sided(members, chosen))
        if fewest is None or missed < fewest:
            best, fewest = chosen, missed
        if missed == 0:
            break
    return best


def one_sided(members: Sequence[frozenset[int]], chosen: frozenset[int]) -> set[int]:
    """The categories that two videos or more have, but only on one side."""
    count = Counter(category for categories in members for category in categories)
    held = Counter(category for i in chosen for category in members[i])
    return {c for c, number in count.items() if number > 1 and held[c] in (0, number)}


class _Draw:
    """One draw of the videos to hold out."""

    def __init__(
        self, members: Sequence[frozenset[int]], fraction: float, rng: np.random.Generator
    ) -> None:
        self.members = [categories or frozenset([NOTHING]) for categories in members]
        self.fraction = fraction
        self.want = min(max(round(fraction * len(members)), 1), len(members) - 1)
        self.count = Counter(c for categories in self.members for c in categories)
        self.have: Counter[int] = Counter()
        self.chosen: set[int] = set()
        self.order = rng.permutation(len(members)).tolist()
        self.spare_singles = True  # categories of a single video stay for training

    def run(self) -> frozenset[int]:
        """One of every category first, the rarest first; then whatever a category lacks most."""
        having = self._by_category()
        for category in sorted(self.count, key=lambda c: (self.count[c], c)):
            if self.count[category] > 1 and category != NOTHING and not self.have[category]:
                allowed = [video for video in having[category] if self._may_go(video)]
                if allowed:
                    self._take(max(allowed, key=self._new_categories))
        self._fill()
        self.spare_singles = False
        self._fill()
        return frozenset(self.chosen)

    def _by_category(self) -> dict[int, deque[int]]:
        """The videos of every category, in the order of this draw."""
        having: dict[int, deque[int]] = defaultdict(deque)
        for video in self.order:
            for category in self.members[video]:
                having[category].append(video)
        return having

    def _fill(self) -> None:
        having = self._by_category()
        while len(self.chosen) < self.want:
            video = self._next(having)
            if video is None:
                return
            self._take(video)

    def _next(self, having: dict[int, deque[int]]) -> int | None:
        """A video of the category that lacks most, of those that still have one to give."""
        while having:
            lacking = max(having, key=lambda c: self.fraction - self.have[c] / self.count[c])
            videos = having[lacking]
            # What may not go now never may: what is left of a category only shrinks.
            while videos and not self._may_go(videos[0]):
                videos.popleft()
            if videos:
                return videos[0]
            del having[lacking]
        return None

    def _may_go(self, video: int) -> bool:
        """Is it still there, not the last one, nor the last of any category?"""
        return (
            video not in self.chosen
            and len(self.chosen) < len(self.members) - 1
            and all(
                self.count[category] - self.have[category] > 1 or self._is_free(category)
                for category in self.members[video]
            )
        )

    def _is_free(self, category: int) -> bool:
        """May its last video go?"""
        return category == NOTHING or (self.count[category] == 1 and not self.spare_singles)

    def _new_categories(self, video: int) -> int:
        return sum(not self.have[category] for category in self.members[video])

    def _take(self, video: int) -> None:
        self.chosen.add(video)
        self.have.update(self.members[video])


def _with_plain_lists(content: dict[str, Any]) -> dict[str, Any]:
    """An annotation file whose lists of videos, images and annotations are plain values."""
    lists: dict[str, Any] = {
        key: [plain(entry) for entry in plain(content[key]) or []]
        for key in ("videos", "images", "annotations")
        if key in content
    }
    return {**content, "annotations": [], **lists}


def _part(
    content: dict[str, Any], wanted: frozenset[int], renamed: dict[str, str]
) -> dict[str, Any]:
    """An annotation file with the wanted videos, or pictures, only."""
    kind = kind_of_parts(content)
    holder, key = ("videos", "video_id") if kind == "youtube-vis" else ("images", "image_id")
    part = dict(content)
    if kind == "coco-video":
        part["videos"] = _of(content["videos"], "id", wanted)
        part["images"] = _of(content["images"], "video_id", wanted)
    else:
        part[holder] = _of(content[holder], "id", wanted)
    ids = frozenset(entry["id"] for entry in part[holder])
    part["annotations"] = _of(content["annotations"], key, ids)
    part[holder] = [_renamed(entry, renamed) for entry in part[holder]]
    return part


def _of(entries: list[Any], key: str, ids: frozenset[int]) -> list[Any]:
    return [entry for entry in entries if entry[key] in ids]


def _renamed(entry: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """An entry that names its files anew."""
    new = dict(entry)
    if "file_names" in entry:
        new["file_names"] = [names[name] for name in entry["file_names"]]
    if "file_name" in entry:
        new["file_name"] = names[entry["file_name"]]
    return new
