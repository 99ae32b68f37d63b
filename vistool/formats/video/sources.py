"""Find the videos that a user's file names, folders and patterns stand for."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from vistool.errors import DataError
from vistool.formats.names import as_file_name
from vistool.formats.pictures import tiff_pages
from vistool.formats.video.frame_files import TIFF_SUFFIXES

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
IMAGE_SUFFIXES = (
    *(".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".pnm", ".tif", ".tiff"),
    ".webp",
)
LOOKED_FOR = f"searched for {' '.join(name[1:] for name in VIDEO_SUFFIXES + IMAGE_SUFFIXES)}"


def source_name(path: Path) -> str:
    """The name for a source's results: the stem of a file, or the name of a folder."""
    return as_file_name(path.resolve().name if path.is_dir() else path.stem)


def expand_sources(patterns: Sequence[str]) -> list[Path]:
    """The video files and folders of frames that the patterns stand for, without repetitions.

    Args: patterns: video files, folders of frames, folders of videos, or glob patterns.
    Raises: DataError if one of them is missing or has no videos and frames in it.
    """
    found: dict[Path, Path] = {}  # by the real path, so that a source given twice is read once
    for pattern in patterns:
        try:
            for path in _expand(pattern):
                found.setdefault(path.resolve(), path)
        except OSError as error:
            raise DataError(f"{pattern}: {error.strerror}") from None
    return list(found.values())


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if pattern and path.is_dir():
        if sources := _sources_in(path):
            return sources
        raise DataError(f"{path}: no frames and no videos in this folder", hint=LOOKED_FOR)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not has_pages(path):
        raise DataError(
            f"{path}: a single picture is not a video",
            hint="give the folder that holds the frames",
        )
    if pattern and path.exists():
        return [path]
    if re.match(r"[a-z][a-z0-9+.-]+://", pattern, re.IGNORECASE):
        raise DataError(
            f"{pattern}: an address, not a file", hint="download it first; only files are read"
        )
    if not glob.has_magic(pattern):
        raise DataError(f"{pattern or 'empty name'}: no such file or folder")
    # Path.glob would need the pattern split into a root and a rest
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)), key=_natural)  # noqa: PTH207
    sources = [source for match in matches for source in _matched(match)]
    if not matches:
        raise DataError(f"{pattern}: no such file or folder, and nothing matches it")
    if not sources:
        raise DataError(
            f"{pattern}: none of the {len(matches)} matches is a video or a folder of frames",
            hint=LOOKED_FOR,
        )
    return sources


def _matched(path: Path) -> list[Path]:
    if path.is_dir():
        return _sources_in(path)
    return [path] if path.suffix.lower() in VIDEO_SUFFIXES or has_pages(path) else []


def _sources_in(folder: Path) -> list[Path]:
    """The videos in a folder, or the folder itself if it holds frames; empty if neither."""
    images, videos = (
        files_with_suffix(folder, IMAGE_SUFFIXES),
        files_with_suffix(folder, VIDEO_SUFFIXES),
    )
    stacks = {path for path in images if has_pages(path)}
    images = [path for path in images if path not in stacks]
    videos = sorted([*videos, *stacks], key=_natural)
    if images and videos:
        raise DataError(
            f"{folder}: holds {len(images)} images and {len(videos)} videos; which is meant?",
            hint="name the videos, or move the frames to a folder of their own",
        )
    return [folder] if images else videos


def has_pages(path: Path) -> bool:
    """Is it a TIFF of several pages, which is a video?"""
    return path.suffix.lower() in TIFF_SUFFIXES and path.is_file() and len(tiff_pages(path)) > 1


def files_with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder in natural order, frame10 after frame9; hidden files are left out."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != ".")
    return sorted((p for p in files if p.is_file()), key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key for natural order, in which frame10 comes after frame9."""
    parts = re.split(r"(\d+)", str(path))
    words = [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts]
    return words, str(path)
