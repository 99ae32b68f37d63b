"""Largest differences between vistool and recordings of the papers' code (IFC, and VisTR's data).

python -m benchmarks.parity    (from the repository's root; one CPU thread, float32)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tests.recorded import (
    formula_weights,
    in_our_names,
    published_shapes,
    recorded,
    recorded_json,
)
from tests.test_criterion import TERMS, recorded_output, recorded_targets
from tests.test_ifc import normalised, small_ifc, small_training_batch
from tests.test_ifc_runs import CASES as VIDEOS
from tests.test_ifc_runs import recorded_frames, segmented
from tests.test_published_ifc import recorded_clip
from tests.test_published_vistr import as_recorded, chained, recorded_rows, stated_areas
from tests.test_single_image import image_instances, recorded_pictures
from tests.test_stitch import CASES as STITCHED
from tests.test_stitch import Recorded
from vistool.config import IFCConfig, ResNetConfig
from vistool.criterion.ifc_criterion import IFCCriterion
from vistool.criterion.losses import LAYER
from vistool.criterion.matcher import match_scores
from vistool.models import build_model
from vistool.models.checkpoints.files import load_exactly
from vistool.models.checkpoints.names import IFC_NAMES, rename_key
from vistool.models.checkpoints.presets import preset
from vistool.ops.boxes import resize_masks
from vistool.ops.pixels import normalise
from vistool.structures import FrameTracks, Size
from vistool.tracking.postprocess import masks_at, results_multi_class, results_single_class
from vistool.tracking.stitch import TrackStitcher

# Quantity, our name, the recording's name.
HEADS = (
    ("class logits", "class_logits", "pred_logits"),
    ("mask logits", "mask_logits", "pred_masks"),
)


class Row(NamedTuple):
    recording: str
    quantity: str
    pairs: list[tuple[Tensor, Tensor]]  # vistool's, recorded


def training_forward() -> Iterator[Row]:
    forward, (pixels, padded) = recorded("ifc/small_train_forward"), small_training_batch()
    out = small_ifc()(pixels, padded, auxiliary=True)
    both = ((out, "out"), (out.auxiliary[0], "out.aux_0"))
    for quantity, value, name in HEADS:
        pairs = [(getattr(layer, value), forward[f"{key}.{name}"]) for layer, key in both]
        yield Row("small_train_forward", quantity, pairs)


def clip_inference() -> Iterator[Row]:
    case, model = recorded("ifc/small_clip_inference"), small_ifc()
    config = recorded_json("ifc/small_meta")["config"]
    clips = [model(normalised(case[f"clip{i}.in"], config)[None]) for i in range(3)]
    for quantity, value, name in HEADS:
        pairs = [(getattr(c, value), case[f"clip{i}.{name}"]) for i, c in enumerate(clips)]
        yield Row("small_clip_inference", quantity, pairs)


def full_models() -> Iterator[Row]:
    for name, section, backbone in (
        ("full_r50_T5", "base_ytvis.yaml", ResNetConfig()),
        ("full_r101_T3", "R101_ytvis.yaml", ResNetConfig(depth=101, stride_in_1x1=True)),
    ):
        case, config = recorded(f"ifc/{name}"), recorded_json(f"ifc/{name}_meta")["config"]
        classes = tuple(f"class{k}" for k in range(40))
        model = build_model(IFCConfig(class_names=classes, backbone=backbone))
        weights = formula_weights(published_shapes(section), config["seed"], config["stem_scale"])
        load_exactly(model, in_our_names(weights, IFC_NAMES), where=name)
        out = model.eval()(normalised(case["in.clip"], config)[None])
        yield Row(name, "class logits", [(out.class_logits, case["out.pred_logits"])])
        yield Row(name, "mask logits", [(out.mask_logits, case["out.pred_masks"])])


def losses() -> Iterator[Row]:
    record, about = recorded("ifc/small_losses"), recorded_json("ifc/small_meta")
    output, targets = recorded_output(), recorded_targets()
    scores = []
    for video, target in enumerate(targets):
        reduced = resize_masks(target.masks, (18, 22))
        for layer, place in ((output, "final"), (output.auxiliary[0], "aux_0")):
            masks = resize_masks(layer.mask_logits[video], (18, 22))
            found = match_scores(layer.class_logits[video], masks, target.labels, reduced)
            scores.append((found, record[f"cost.{place}.video{video}"]))
    yield Row("small_losses", "match scores", scores)
    terms = []
    for key, value in IFCCriterion()(output, targets).items():
        term = LAYER.sub("", key)
        name = TERMS[term] + key.removeprefix(term)
        terms.append((value, torch.tensor(about["losses_unweighted"][name])))
    yield Row("small_losses", "losses", terms)
    yield from gradients(record)


@torch.enable_grad()
def gradients(record: dict[str, Tensor]) -> Iterator[Row]:
    model, criterion = small_ifc(), IFCCriterion()
    pixels, padded = small_training_batch()
    terms = criterion(model(pixels, padded, auxiliary=True), recorded_targets())
    criterion.total(terms).backward()
    parameters = dict(model.named_parameters())
    pairs = []
    for key in (key for key in record if key.startswith("grad.")):
        found = parameters[rename_key(key.removeprefix("grad."), IFC_NAMES)].grad
        assert found is not None
        pairs.append((found, record[key]))
    yield Row("small_losses", f"{len(pairs)} gradients", pairs)


def mean_logits(frames: list[FrameTracks], expected: Tensor) -> tuple[Tensor, Tensor]:
    """The mask logits of tracks; 0 on frames where both vistool and the recording have none."""
    found = torch.full_like(expected, torch.nan)
    for frame in frames:
        rows = torch.tensor(frame.track_ids, dtype=torch.int64) - 1
        found[rows, frame.frame_id] = frame.mask_logits
    assert torch.equal(found.isnan(), expected.isnan())
    return found.nan_to_num(), expected.nan_to_num()


def drawn_pixels(
    frames: list[FrameTracks], size: Sequence[int], expected: Tensor
) -> tuple[Tensor, Tensor]:
    found = torch.zeros_like(expected)
    for frame in frames:
        for track_id, mask in masks_at(frame, Size(*size)):
            found[track_id - 1, frame.frame_id] = torch.from_numpy(mask)
    return found, expected


def stitching() -> Iterator[Row]:
    overlaps, classes, logits, masks = [], [], [], []
    for number in range(len(STITCHED)):
        case = Recorded(number)
        one_by_one = TrackStitcher(case.about["num_classes"])
        for i, clip in enumerate(case.clips):
            rows, found = one_by_one.overlaps(clip.frame_ids, clip.mask_logits.sigmoid())
            overlaps.append((found, case[f"clip{i}.score_matrix"][rows]))
            one_by_one.add(clip)
        stitcher, frames = case.stitched()
        classes.append((stitcher.class_probs(), case["avg_cls"][:, :-1]))
        logits.append(mean_logits(frames, case["avg_logits"]))
        masks.append(drawn_pixels(frames, case.about["out"], case["masks"]))
    yield Row("stitching", "soft overlaps", overlaps)
    yield Row("stitching", "class probs", classes)
    yield Row("stitching", "mean mask logits", logits)
    yield Row("stitching", "mask pixels", masks)


def whole_videos() -> Iterator[Row]:
    record = recorded("ifc/small_e2e")
    logits, scores, masks = [], [], []
    for number, about in enumerate(VIDEOS):
        clips = {"clip_length": about["T"], "clip_stride": about["stride"]}
        segmenter, seen = segmented(list(recorded_frames(number)), **clips)
        frames = [frame.tracks for frame in seen if frame.tracks is not None]
        logits.append(mean_logits(frames, record[f"v{number}.avg_logits"]))
        results = results_multi_class if about["multi_cls"] else results_single_class
        found = [score for _, _, score in results(segmenter.class_probs())]
        scores.append((torch.tensor(found), record[f"v{number}.scores"]))
        size = (about["out_h"], about["out_w"])
        masks.append(drawn_pixels(frames, size, record[f"v{number}.track_masks"]))
    yield Row("small_e2e", "mean mask logits", logits)
    yield Row("small_e2e", "scores", scores)
    yield Row("small_e2e", "mask pixels", masks)


def single_images() -> Iterator[Row]:
    case = recorded("ifc/small_coco_image")
    pictures, output, canvas = recorded_pictures()
    found = [
        image_instances(
            output, i, canvas, Size(*picture.shape[-2:]), Size(*case[f"im{i}.masks"].shape[-2:])
        )
        for i, picture in enumerate(pictures)
    ]
    for quantity in ("scores", "boxes", "masks"):
        pairs = [(of_one[quantity], case[f"im{i}.{quantity}"]) for i, of_one in enumerate(found)]
        yield Row("small_coco_image", quantity, pairs)


def ifc_clips() -> Iterator[Row]:
    expected, about = recorded("ifc/dataset/expected"), recorded_json("ifc/dataset/meta")
    parts: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for i in range(len(about["samples"])):
        truths, pictures = recorded_clip(i)
        parts["resized bytes"].append((pictures, expected[f"s{i}.images"]))
        for t, truth in enumerate(truths):
            ours = truth.ids.argsort(stable=True)
            theirs = expected[f"s{i}.frame{t}.ids"].argsort(stable=True)
            for quantity, value, key in (
                ("ids", truth.ids, "ids"),
                ("classes", truth.labels, "classes"),
                ("boxes", truth.boxes, "boxes"),
                ("mask pixels", truth.masks.byte(), "masks"),
            ):
                found = expected[f"s{i}.frame{t}.{key}"][theirs]
                parts[quantity].append((value[ours], found))
    for quantity, pairs in parts.items():
        yield Row("ifc dataset", quantity, pairs)


def vistr_clips() -> Iterator[Row]:
    expected = recorded("vistr/dataset/expected")
    samples = recorded_json("vistr/dataset/meta")["samples"]
    pixels = preset("vistr-r50").pixels
    for chain in ("plain", "geom"):
        parts: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for index in (sample["index"] for sample in samples):
            rows, areas = chained(recorded_rows(index), stated_areas(index), chain)
            found = as_recorded(rows, areas)
            found["img"] = normalise(torch.from_numpy(rows.frames.copy()), pixels).flatten(0, 1)
            for name, value in found.items():
                parts[name].append((value, expected[f"{chain}.{index}.{name}"]))
        for name, pairs in parts.items():
            yield Row(f"vistr dataset {chain}", name, pairs)


def main() -> None:
    torch.set_num_threads(1)
    print("| recording | quantity | largest value | absolute | relative to it |")
    print("| --- | --- | --- | --- | --- |")
    parts = (
        *(training_forward, clip_inference, full_models, losses),
        *(stitching, whole_videos, single_images, ifc_clips, vistr_clips),
    )
    for part in parts:
        with torch.no_grad():
            for row in part():
                print(f"| {' | '.join(cells(row))} |", flush=True)


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row.

    For bytes and pixels: how many differ. For numbers: the largest absolute difference, and the
    largest one relative to its tensor's largest value.
    """
    pairs = [(a.double(), b.double()) for a, b in row.pairs if b.numel()]
    if not row.pairs[0][1].is_floating_point():
        unlike = sum(int((a != b).sum()) for a, b in pairs)
        count = sum(b.numel() for _, b in pairs)
        return (row.recording, row.quantity, "", f"{unlike} of {count} differ", "")
    sizes = [b.abs().max().item() for _, b in pairs]
    apart = [(a - b).abs().max().item() for a, b in pairs]
    relative = max((d / s for d, s in zip(apart, sizes, strict=True) if s), default=0.0)
    numbers = (f"{max(sizes):.3g}", f"{max(apart):.1e}", f"{relative:.1e}")
    return (row.recording, row.quantity, *numbers)


if __name__ == "__main__":
    main()
