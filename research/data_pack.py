"""Pack the training data into one small file, for a machine with a limit on uploads.

    python research/data_pack.py PREPARED PACK.tar.xz [--short-side 192] [--quality 40]

PREPARED is the output folder of `training_data`. Pictures are scaled down and stored as WebP, and
masks are scaled with them. Some large data sets keep only every second or third picture or frame
(EVERY). With the defaults, the pack is smaller than 22 MB.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from duplicates import TRAIN

from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.structures import RLE, Size

EVERY = {"coco-person": 2, "street-person": 3, "davis": 2, "segtrack-bmx": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--short-side", type=int, default=192, help="pixels")
    parser.add_argument("--quality", type=int, default=40, help="of WebP, 1 to 100")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path in sorted(args.prepared.glob(f"*/{TRAIN}")):
            shrink(path, folder / path.parent.name, args.short_side, args.quality)
        with tarfile.open(args.pack, "w:xz") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
    print(f"{args.pack}: {args.pack.stat().st_size / 1e6:.1f} MB")


def shrink(path: Path, output: Path, short_side: int, quality: int) -> None:
    """Write a data set with smaller pictures and masks."""
    content = thinned(json.loads(path.read_text()), EVERY.get(path.parent.name, 1))
    sizes: dict[int, Size] = {}
    for entry in content.get("images", []) + content.get("videos", []):
        scale = min(1.0, short_side / min(entry["height"], entry["width"]))
        size = Size(round(entry["height"] * scale), round(entry["width"] * scale))
        sizes[entry["id"]] = size
        entry["height"], entry["width"] = size
        for file in entry.get("file_names", [entry.get("file_name")]):
            copy = output / webp(file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            picture = cv2.imread(str(path.parent / file))
            small = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(copy), small, [cv2.IMWRITE_WEBP_QUALITY, quality])
        if "file_name" in entry:
            entry["file_name"] = webp(entry["file_name"])
        else:
            entry["file_names"] = [webp(file) for file in entry["file_names"]]
    for a in content["annotations"]:
        size = sizes[a["image_id" if "image_id" in a else "video_id"]]
        if "segmentations" in a:
            a["segmentations"] = [m and shrunk_mask(m, size) for m in a["segmentations"]]
        else:
            a["segmentation"] = shrunk_mask(a["segmentation"], size)
        for key in ("bbox", "bboxes", "area", "areas"):
            a.pop(key, None)
    (output / path.name).write_text(json.dumps(content, separators=(",", ":")))


def thinned(content: dict[str, Any], every: int) -> dict[str, Any]:
    """The data set with one of `every` pictures, or frames of each video."""
    if "images" in content:
        images = content["images"][::every]
        ids = {image["id"] for image in images}
        kept = [a for a in content["annotations"] if a["image_id"] in ids]
        return {**content, "images": images, "annotations": kept}
    for video in content["videos"]:
        video["file_names"] = video["file_names"][::every]
        video["length"] = len(video["file_names"])
    for a in content["annotations"]:
        a["segmentations"] = a["segmentations"][::every]
    return content


def webp(file: str) -> str:
    return str(Path(file).with_suffix(".webp"))


def shrunk_mask(mask: RLE, size: Size) -> RLE:
    small = cv2.resize(
        decode_mask(mask).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA
    )
    return encode_mask(small >= 0.5)


if __name__ == "__main__":
    main()
