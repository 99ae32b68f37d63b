"""Positions of clips in a video: windows of T frames that move by a stride."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from vistool.errors import UsageError

Item = TypeVar("Item")


def clip_windows(length: int, clip_length: int, stride: int) -> Iterator[range]:
    """The windows of a video of `length` frames (IFC's inference rule).

    A window that would reach the end is moved back to the last `clip_length` frames and is the
    last one; a video shorter than a window is one window.

    >>> list(clip_windows(10, 5, 3))
    [range(0, 5), range(3, 8), range(5, 10)]
    """
    check_stride(clip_length, stride)
    for start in itertools.count(0, stride):
        if start + clip_length >= length:
            break
        yield range(start, start + clip_length)
    if length > 0:
        yield range(max(0, length - clip_length), length)


def check_stride(clip_length: int, stride: int) -> None:
    """Raises: UsageError if windows could not be made, or would leave frames out."""
    if clip_length < 1:
        raise UsageError(f"clip length {clip_length}: a clip has at least one frame")
    if stride < 1:
        raise UsageError(f"clip stride {stride}: the window moves by at least one frame")
    if stride > clip_length:
        raise UsageError(
            f"clip stride {stride} is more than the clip length {clip_length}: "
            "the frames in between would be lost",
            hint=f"choose a clip stride from 1 to {clip_length}",
        )


@dataclass(frozen=True, slots=True)
class Window(Generic[Item]):
    """T consecutive frames: their ids, and one item for each."""

    frame_ids: range
    items: tuple[Item, ...]


class StreamingWindows(Generic[Item]):
    """`clip_windows` for a video whose length is not known before it ends.

    Frames are pushed one by one; the last `clip_length` of them are kept, and nothing else.
    """

    def __init__(self, clip_length: int | None, stride: int) -> None:
        """clip_length None: one window over the whole video, so every frame is kept."""
        if clip_length is not None:
            check_stride(clip_length, stride)
        self._clip_length = clip_length
        self._stride = stride
        self._ring: deque[Item] = deque(maxlen=clip_length)
        self._pushed = 0
        self._covered = 0  # frames that lie in a window handed out
        self._finished = False

    def __len__(self) -> int:
        """The number of frames that are kept."""
        return len(self._ring)

    def push(self, item: Item) -> Window[Item] | None:
        """Take the next frame; returns the window it completes, if it completes one."""
        self._ring.append(item)
        self._pushed += 1
        if self._clip_length is None:
            return None
        past_first = self._pushed - self._clip_length
        return self._newest() if past_first >= 0 and past_first % self._stride == 0 else None

    def finish(self) -> Window[Item] | None:
        """The video is over; returns the last window, unless it was handed out already."""
        self._finished = True
        return self._newest() if self._covered < self._pushed else None

    @property
    def final_before(self) -> int:
        """No later window covers a frame with an id below this, however long the video is.

        The video may end with any frame, and its last window then begins `clip_length` frames
        earlier: with a stride above 1 that can be right after the first frame of this window.
        """
        if self._finished:
            return self._pushed
        if self._clip_length is None or self._covered == 0:
            return 0
        shortest = max(self._pushed, self._covered + 1)  # video that has another window
        return shortest - self._clip_length

    def _newest(self) -> Window[Item]:
        self._covered = self._pushed
        first = self._pushed - len(self._ring)
        return Window(range(first, self._pushed), tuple(self._ring))
