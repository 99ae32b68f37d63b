"""Split the development data into two halves: choices made on one are reported on the other.

    python research/split.py --data FOLDER

The pictures of each data set are sorted by the SHA-256 of their file name; the first half is for
choosing, the second half for reporting. The videos of each data set, sorted by name, alternate
between the halves A and B. Choices made on A are reported on B, and vice versa. The written file
`split.json` is committed and stays valid if pictures are added later.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

SPLIT = Path(__file__).with_name("split.json")
PICTURES = (
    "animals-koma",
    "cats",
    "coco",
    "coco-person",
    "coco-traffic",
    "pets",
    "street-person",
    "voc07",
)
VIDEOS = {"davis": "val-dev.json", "composites": "dev.json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    data = parser.parse_args().data
    pictures = {name: halves(picture_names(data / name / "dev.json")) for name in PICTURES}
    videos = {name: alternating(video_names(data / name / file)) for name, file in VIDEOS.items()}
    SPLIT.write_text(json.dumps({"pictures": pictures, "videos": videos}, indent=1) + "\n")


def picture_names(path: Path) -> list[str]:
    return [Path(image["file_name"]).name for image in json.loads(path.read_text())["images"]]


def video_names(path: Path) -> list[str]:
    return [
        Path(video["file_names"][0]).parent.name for video in json.loads(path.read_text())["videos"]
    ]


def halves(names: list[str]) -> dict[str, list[str]]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    middle = len(ordered) // 2
    return {"choose": sorted(ordered[:middle]), "report": sorted(ordered[middle:])}


def alternating(names: list[str]) -> dict[str, list[str]]:
    return {"A": sorted(names)[::2], "B": sorted(names)[1::2]}


if __name__ == "__main__":
    main()
