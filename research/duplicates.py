"""Find training pictures that repeat a picture of the development data, by a difference hash.

    python research/duplicates.py --data FOLDER [--write research/left_out.json] [--near 80]

Every picture is scaled to 17x16 grey values. The 256 bits of its hash are set where a value is
larger than its left neighbour. Two pictures, or one and the mirrored other, show the same scene if
their hashes differ in at most LIMIT bits and their grey values correlate. The correlation is needed
because plain skies have similar hashes. --near also lists all pairs up to another distance, for
checking. The written file lists the training pictures that `training_data` leaves out, with the
pictures that they repeat.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

BITS = 16  # per side
LIMIT = 60  # of 256 bits; unrelated pictures differ in about 128
CORRELATION = 0.85  # copies have 0.99, two photos of one cat in one place have 0.93
LEFT_OUT = Path(__file__).with_name("left_out.json")
TRAIN = "train.json"
DEVELOPMENT = ("dev.json", "val-dev.json")


class Picture(NamedTuple):
    file: str  # relative to the data folder
    small: np.ndarray  # [16, 17] float, grey


class Pair(NamedTuple):
    bits: int  # number of different bits of the hashes
    train: str
    development: str
    correlation: float

    @property
    def same(self) -> bool:
        return self.bits <= LIMIT and self.correlation >= CORRELATION


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--write", type=Path, help="file for the list of training pictures")
    parser.add_argument("--near", type=int, default=0, help="list pairs up to this distance")
    args = parser.parse_args()

    train = list(pictures(args.data, (TRAIN,)))
    development = list(pictures(args.data, DEVELOPMENT))
    pairs = alike(train, development, max(LIMIT, args.near))
    print(f"{len(train)} training pictures, {len(development)} development pictures")
    for pair in pairs:
        if pair.same or pair.bits <= args.near:
            note = "" if pair.same else "  (different scene)"
            measured = f"{pair.bits:4} bits, correlation {pair.correlation:.3f}"
            print(f"{measured}  {pair.train}  {pair.development}{note}")
    if args.write:
        left_out = {pair.train: pair.development for pair in reversed(pairs) if pair.same}
        args.write.write_text(json.dumps(left_out, indent=1, sort_keys=True) + "\n")


def pictures(data: Path, names: tuple[str, ...]) -> Iterator[Picture]:
    """The pictures and frames of all annotation files of these names, scaled down."""
    for labels in sorted(p for name in names for p in data.glob(f"*/{name}")):
        folder = labels.parent
        content = json.loads(labels.read_text())
        files = [image["file_name"] for image in content.get("images", [])]
        files += [file for video in content.get("videos", []) for file in video["file_names"]]
        for file in files:
            grey = cv2.imread(str(folder / file), cv2.IMREAD_GRAYSCALE)
            size = (BITS + 1, BITS)
            small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
            yield Picture(f"{folder.name}/{file}", small.astype(float))


def difference_hash(small: np.ndarray) -> np.ndarray:
    """The hash of grey values [16, 17]: [32] uint8, 256 bits."""
    return np.packbits(small[:, 1:] > small[:, :-1])


def alike(train: list[Picture], development: list[Picture], limit: int) -> list[Pair]:
    """Pairs that differ in at most `limit` bits, the closest first."""
    ones = np.array([byte.bit_count() for byte in range(256)])
    hashes = np.stack([difference_hash(p.small) for p in train])
    pairs = []
    for picture in development:
        for small in (picture.small, picture.small[:, ::-1]):
            bits = ones[hashes ^ difference_hash(small)].sum(1)
            for i in np.flatnonzero(bits <= limit):
                correlation = float(np.corrcoef(train[i].small.ravel(), small.ravel())[0, 1])
                pairs.append(Pair(int(bits[i]), train[i].file, picture.file, correlation))
    return sorted(pairs)


if __name__ == "__main__":
    main()
