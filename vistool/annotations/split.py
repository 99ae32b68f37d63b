"""Split a data set by videos into a training and a validation part, with all categories in both."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vistool.annotations.coco_json import kind_of_parts, read_coco_json
from vistool.annotations.convert import bring_frames
from vistool.annotations.dataset import group_tracks
from vistool.annotations.read import annotation_file
from vistool.errors import UsageError
from vistool.formats.files import (
    atomic_path,
    decode_json,
    encode_json,
    plain,
    read_file,
    refuse_existing,
)
from vistool.progress import OnProgress, silent

NOTHING = -1  # replaces the category of a video without annotations


@dataclass(frozen=True, slots=True)
class Split:
    """The two written annotation files and their contents."""

    kept: Path
    held_out: Path
    num_kept: int  # videos, or pictures
    num_held_out: int
    one_sided: tuple[str, ...]  # categories that two or more videos have, but only in one part
    missing_files: int  # frames whose files do not exist; their names are kept


def split_dataset(
    path: Path,
    fraction: float,
    seed: int,
    folder: Path | None = None,
    *,
    frames: Path | None = None,
    exist_ok: bool = False,
    on_progress: OnProgress = silent,
) -> Split:
    """Write `NAME-train.json` and `NAME-val.json`; ids and all other fields stay as they are.

    Args:
        fraction: share of the videos to hold out, in (0, 1).
        folder: for the two files; None: the folder of the annotation file. If the frames are not
            below it, they are linked into it by `bring_frames`.
        exist_ok: replace existing files.

    Raises: DataError for a set that training would refuse, UsageError if it cannot be split or a
        file exists.
    """
    source = annotation_file(path)
    dataset = read_coco_json(source, frames=frames, on_progress=on_progress)
    if len(dataset.videos) < 2 or not 0 < fraction < 1:
        raise UsageError(
            f"{source}: {len(dataset.videos)} videos or pictures cannot be split by {fraction:g}",
            hint="a split needs two or more of them, and a fraction between 0 and 1",
        )
    folder = folder or source.parent
    places = {name: folder / f"{source.stem}-{name}.json" for name in ("train", "val")}
    for place in places.values():
        refuse_existing(place, exist_ok=exist_ok)
    by_video = group_tracks(dataset.tracks)
    members = [frozenset(t.category_id for t in by_video[v.id]) for v in dataset.videos]
    chosen = hold_out(members, fraction, seed)
    moved, missing = bring_frames(dataset, folder, on_progress)
    renamed = {
        old: new
        for before, after in zip(dataset.videos, moved.videos, strict=True)
        for old, new in zip(before.file_names, after.file_names, strict=True)
    }
    ids = [video.id for video in dataset.videos]
    held = {ids[position] for position in chosen}
    parts = {"train": frozenset(ids) - held, "val": frozenset(held)}
    raw = decode_json(read_file(source), dict[str, msgspec.Raw], str(source))
    content = _with_plain_lists(raw)
    files = {name: _part(content, wanted, renamed) for name, wanted in parts.items()}
    written = sum(len(part["annotations"]) for part in files.values())
    assert written == len(content["annotations"]), "every annotation is in one of the two files"
    for name, part in files.items():
        with atomic_path(places[name]) as temporary:
            temporary.write_bytes(encode_json(part) + b"\n")
    names = {category.id: category.name for category in dataset.categories}
    return Split(
        kept=places["train"],
        held_out=places["val"],
        num_kept=len(ids) - len(held),
        num_held_out=len(held),
        one_sided=tuple(names[id_] for id_ in sorted(one_sided(members, chosen))),
        missing_files=missing,
    )


def hold_out(members: Sequence[frozenset[int]], fraction: float, seed: int) -> frozenset[int]:
    """Select videos to hold out: about `fraction` of all, and of the videos of every category.

    First, one video is selected for each category that two or more videos have, the rarest category
    first. Then videos are added one at a time for the category with the smallest held-out share.
    Such a category always keeps at least one video for training. More than `fraction` may be held
    out. The selection depends on the arguments only.

    Args: members: the categories in each of the N videos.
    Returns: positions in `members`.
    """
    wanted = min(max(round(fraction * len(members)), 1), len(members) - 1)
    named = [categories or frozenset([NOTHING]) for categories in members]
    count = Counter(category for categories in named for category in categories)
    held: Counter[int] = Counter(dict.fromkeys(count, 0))
    chosen: set[int] = set()

    def shared(video: int) -> list[int]:
        """The categories that this video shares with other videos."""
        return [c for c in named[video] if count[c] > 1 and c != NOTHING]

    def may_be_held_out(video: int) -> bool:
        last = any(count[c] - held[c] == 1 for c in shared(video))
        return not last and video not in chosen and len(chosen) < len(members) - 1

    def take(video: int) -> None:
        chosen.add(video)
        held.update(named[video])

    order = np.random.default_rng(seed).permutation(len(members)).tolist()
    # Videos with a category that no other video has come last: without them it is not trained.
    order.sort(key=lambda v: any(count[c] == 1 for c in named[v]))
    videos = _by_category(order, named)
    for category in sorted(count, key=lambda c: (count[c], c)):
        allowed = [v for v in videos[category] if category in shared(v) and may_be_held_out(v)]
        if allowed and not held[category]:
            take(max(allowed, key=lambda v: sum(not held[c] for c in shared(v))))
    while len(chosen) < wanted and videos:
        category = min(videos, key=lambda c: held[c] / count[c] if count[c] > 1 else 1.0)
        video = videos[category].popleft()
        if may_be_held_out(video):
            take(video)
        if not videos[category]:
            del videos[category]
    return frozenset(chosen)


def _by_category(order: Sequence[int], named: Sequence[frozenset[int]]) -> dict[int, deque[int]]:
    """The videos of every category, in the given order."""
    videos: dict[int, deque[int]] = defaultdict(deque)
    for video in order:
        for category in named[video]:
            videos[category].append(video)
    return videos


def one_sided(members: Sequence[frozenset[int]], chosen: frozenset[int]) -> set[int]:
    """The categories that two or more videos have, but only in one part."""
    count = Counter(category for categories in members for category in categories)
    held = Counter(category for i in chosen for category in members[i])
    return {c for c, number in count.items() if number > 1 and held[c] in (0, number)}


def _with_plain_lists(content: dict[str, Any]) -> dict[str, Any]:
    """An annotation file with its lists of videos, images and annotations as plain values."""
    lists: dict[str, Any] = {
        key: [plain(entry) for entry in plain(content[key]) or []]
        for key in ("videos", "images", "annotations")
        if key in content
    }
    return {**content, "annotations": [], **lists}


def _part(
    content: dict[str, Any], wanted: frozenset[int], renamed: dict[str, str]
) -> dict[str, Any]:
    """The annotation file restricted to the wanted videos, or pictures."""
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
    """The entry with new file names."""
    new = dict(entry)
    if "file_names" in entry:
        new["file_names"] = [names[name] for name in entry["file_names"]]
    if "file_name" in entry:
        new["file_name"] = names[entry["file_name"]]
    return new
