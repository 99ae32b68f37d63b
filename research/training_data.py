"""Prepare the annotated data sets for the training of the released weights.

    python research/training_data.py --data FOLDER OUTPUT

Every data set's `train.json` is copied into OUTPUT with its pictures, except those that repeat a
picture of the development data (`left_out.json`, see `duplicates`). Animals of the category
"object" that have a name in the data set, such as tigers, get a category of that name.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from duplicates import LEFT_OUT, TRAIN

FIRST_NEW_ID = 1001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    prepare(args.data, args.output)


def prepare(data: Path, output: Path) -> None:
    """Write the training sets; existing files are not copied again."""
    left_out = set(json.loads(LEFT_OUT.read_text()))
    for labels in sorted(data.glob(f"*/{TRAIN}")):
        folder = labels.parent
        content = with_named(json.loads(labels.read_text()))
        if "images" in content:
            content = without(content, folder.name, left_out)
        for file in files_of(content):
            copy = output / folder.name / file
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / file, copy)
        (output / folder.name / TRAIN).write_text(json.dumps(content))


def without(content: dict[str, Any], name: str, left_out: set[str]) -> dict[str, Any]:
    """A COCO data set without the pictures in `left_out`, which are named `set/file`."""
    images = [i for i in content["images"] if f"{name}/{i['file_name']}" not in left_out]
    ids = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in ids]
    return {**content, "images": images, "annotations": annotations}


def with_named(content: dict[str, Any]) -> dict[str, Any]:
    """A data set in which annotations with a `name` have a category of that name."""
    names = sorted({a["name"] for a in content["annotations"] if a.get("name")})
    ids = {name: FIRST_NEW_ID + place for place, name in enumerate(names)}
    return {
        **content,
        "categories": [*content["categories"], *({"id": ids[n], "name": n} for n in names)],
        "annotations": [
            {**a, "category_id": ids[a["name"]]} if a.get("name") else a
            for a in content["annotations"]
        ],
    }


def files_of(content: dict[str, Any]) -> list[str]:
    files = [image["file_name"] for image in content.get("images", [])]
    return files + [f for video in content.get("videos", []) for f in video["file_names"]]


if __name__ == "__main__":
    main()
