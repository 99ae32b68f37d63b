"""Draw contact sheets of a model's predictions on the development data.

    python research/dev_sheets.py --model FILE --data FOLDER --output FOLDER [--conf 0.5]

There is one sheet per source of pictures, with some evenly spread ones, one sheet of the DAVIS
sequences and one of the composites, with a few frames of each video. A caption gives the number of
labelled instances that were predicted correctly at IoU 0.5, and of wrong predictions. Sheets show
pictures of the data and must not be published, so a folder inside the repository is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from dev_data import (
    Case,
    add_settings,
    composite_cases,
    davis_sequences,
    load,
    picture_cases,
    read_pictures,
    spread,
    trained_classes,
)
from dev_scores import compared, errors
from split import PICTURES

from vistool.config import PredictConfig
from vistool.data.shots import read_image
from vistool.formats.masks.rle import decode_mask
from vistool.rendering.contact_sheet import SheetRow, contact_sheet
from vistool.rendering.overlay import draw_tracks
from vistool.structures import Track

REPOSITORY = Path(__file__).resolve().parent.parent
FRAMES = 6  # of a video


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    loaded = load(args)
    classes = trained_classes(loaded.header)
    names = tuple(classes)
    for source in args.sources:
        if source == "davis":
            sequences = davis_sequences(loaded, args.data, classes)
            cases = [sequence.case for sequence in sequences]
        elif source == "composites":
            cases = composite_cases(loaded, args.data, classes)
        else:
            pictures = read_pictures(args.data, source, classes)
            cases = picture_cases(loaded, spread(pictures, args.pictures), source)
        rows = [row_of(case, names, args.conf) for case in cases]
        heading = f"{source}: {loaded.header.path.stem}, score at least {args.conf:g}"
        sheet = contact_sheet(rows, heading)
        path = args.output / f"{source}.png"
        cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        print(path)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sources = (*PICTURES, "davis", "composites")
    parser.add_argument("--model", required=True, help="weight file, or a shipped model's name")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--output", type=Path, required=True, help="folder for the sheets")
    parser.add_argument("--sources", nargs="+", choices=sources, default=sources)
    parser.add_argument("--pictures", type=int, default=24, help="of each source")
    parser.add_argument("--conf", type=float, default=PredictConfig().conf)
    add_settings(parser)
    args = parser.parse_args()
    if args.output.resolve().is_relative_to(REPOSITORY):
        parser.error(f"{args.output} is inside the repository, where these pictures must not be")
    return args


def row_of(case: Case, names: Sequence[str], conf: float) -> SheetRow:
    """Some frames of a video, or a picture, with the predictions that score at least `conf`."""
    length = len(case.video.files)
    frames = spread(range(length), FRAMES)
    counts = errors(compared([case]), len(names), conf)
    wrong = counts["predicted"] - counts["right"]
    return SheetRow(
        title=case.name,
        note=f"{counts['right']} of {counts['labelled']} found, {wrong} wrong",
        frames=[drawn(case, frame, names, conf) for frame in frames],
        captions=[f"frame {frame}" for frame in frames] if length > 1 else (),
    )


def drawn(case: Case, frame: int, names: Sequence[str], conf: float) -> np.ndarray:
    """A frame with its predictions, [H, W, 3] uint8 RGB."""
    tracks, masks = [], []
    for number, found in enumerate(case.found, start=1):
        mask, category = found["segmentations"][frame], found["category_id"]
        if found["score"] >= conf and mask is not None:
            tracks.append(Track(number, category, names[category], found["score"]))
            masks.append(decode_mask(mask))
    return draw_tracks(read_image(case.video, frame), tracks, masks)


if __name__ == "__main__":
    main()
