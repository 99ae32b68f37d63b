"""Store the masks of a video on disk while the video is predicted."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from vistool.errors import UsageError, VistoolError
from vistool.formats.replacing import owner, remove_leftovers
from vistool.structures import RLE


class SegmentationSpool:
    """A temporary database of masks by frame and track; memory does not grow with the video.

    A context manager: the file is created in `folder` on entry and removed on exit. All methods
    raise VistoolError if the disk is full.
    """

    BATCH = 500  # rows kept in memory before they are written

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closed = False
        self._pending: list[tuple[int, int, int, int, str]] = []

    def __enter__(self) -> SegmentationSpool:
        with contextlib.ExitStack() as stack, self._explained_errors():
            remove_leftovers(self._folder)
            place = tempfile.TemporaryDirectory(dir=self._folder, prefix=f".masks-{owner()}-")
            path = Path(stack.enter_context(place)) / "masks.sqlite3"
            self._db = sqlite3.connect(path, check_same_thread=False)
            stack.callback(self._db.close)
            # An interrupted _flush is rolled back, which needs a journal.
            self._db.executescript(
                """
                PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA cache_size = -4000;
                CREATE TABLE masks (
                    track INTEGER, frame INTEGER, height INTEGER, width INTEGER, counts TEXT,
                    PRIMARY KEY (track, frame)
                ) WITHOUT ROWID;
                CREATE INDEX by_frame ON masks (frame, track);
                """
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._stack.close()

    def add(self, frame: int, track: int, rle: RLE) -> None:
        """Store the mask of a track on a frame, replacing an earlier one."""
        height, width = rle["size"]
        self._pending.append((track, frame, height, width, rle["counts"]))
        if len(self._pending) >= self.BATCH:
            self._flush()

    def segmentations(self, track: int, length: int) -> list[RLE | None]:
        """The masks of a track on frames 0 to length - 1; None where it has no mask."""
        rows = self._rows(
            "SELECT frame, height, width, counts FROM masks "
            "WHERE track = ? AND frame BETWEEN 0 AND ?",
            (track, length - 1),
        )
        result: list[RLE | None] = [None] * length
        for frame, height, width, counts in rows:
            result[frame] = RLE(size=[height, width], counts=counts)
        return result

    def frame(self, frame: int) -> list[tuple[int, RLE]]:
        """The tracks on a frame with their masks, by increasing track number."""
        rows = self._rows(
            "SELECT track, height, width, counts FROM masks WHERE frame = ? ORDER BY track",
            (frame,),
        )
        return [(track, RLE(size=[h, w], counts=counts)) for track, h, w, counts in rows]

    def _rows(self, query: str, values: tuple[int, ...]) -> list[tuple[Any, ...]]:
        if self._closed:
            raise UsageError("the video was closed and its masks are deleted")
        self._flush()
        with self._explained_errors():
            return self._db.execute(query, values).fetchall()

    def _flush(self) -> None:
        if self._pending:
            with self._explained_errors(), self._db:
                self._db.executemany(
                    "INSERT OR REPLACE INTO masks VALUES (?, ?, ?, ?, ?)", self._pending
                )
            self._pending.clear()

    @contextlib.contextmanager
    def _explained_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise VistoolError(
                f"{self._folder}: masks cannot be stored there: {error}",
                hint="if its disk is full, make room, or choose a folder on another disk",
            ) from None
