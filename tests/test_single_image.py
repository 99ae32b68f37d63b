"""Instances of single pictures, as IFC's published code finds them on COCO: the recorded ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.recorded import recorded, recorded_json
from tests.test_ifc import normalised, padded_batch, small_ifc
from vistool.ops.boxes import boxes_of_masks, resize_masks, xyxy_of
from vistool.structures import ClipOutput, Size


def recorded_pictures() -> tuple[list[Tensor], ClipOutput, Size]:
    """Two pictures, the model's output for them as one batch, and the canvas of that."""
    case, config = recorded("ifc/small_coco_image"), recorded_json("ifc/small_meta")["config"]
    pictures = [case[f"im{i}.in"] for i in (0, 1)]
    pixels, padded = padded_batch([normalised(p[None], config) for p in pictures])
    with torch.no_grad():
        return pictures, small_ifc()(pixels, padded), Size(*pixels.shape[-2:])


def image_instances(
    output: ClipOutput, image: int, canvas: Size, size: Size, original: Size
) -> dict[str, Tensor]:
    """The instances of one picture of a batch, in the order of their queries.

    A mask is cut from its logits on the canvas, and its box drawn around it, before both are
    brought to the original size; queries whose mask is empty are left out.
    """
    scores, classes = output.class_logits[image].softmax(-1).max(-1)
    masks = resize_masks(output.mask_logits[image, :, 0], canvas)
    masks = masks[:, : size.height, : size.width] > 0
    kept = (classes < output.class_logits.shape[-1] - 1) & masks.flatten(1).any(1)
    corners = torch.tensor([original.width, original.height] * 2)
    return {
        "classes": classes[kept],
        "scores": scores[kept],
        "boxes": xyxy_of(boxes_of_masks(masks[kept])) * corners,
        "masks": resize_masks(masks[kept].float(), original) > 0.5,
    }


@pytest.mark.parity
def test_pictures_of_two_sizes_give_the_recorded_instances() -> None:
    case, meta = recorded("ifc/small_coco_image"), recorded_json("ifc/small_meta")
    pictures, output, canvas = recorded_pictures()
    for i, picture in enumerate(pictures):
        expected = case[f"im{i}.masks"].bool()
        size, original = Size(*picture.shape[-2:]), Size(*expected.shape[-2:])
        found = image_instances(output, i, canvas, size, original)
        assert len(found["classes"]) == meta["coco_kept"][i]
        assert torch.equal(found["classes"], case[f"im{i}.classes"])
        assert torch.equal(found["masks"], expected)
        # Logits differ by up to 1e-4 from the recorded ones, boxes by rounding alone.
        torch.testing.assert_close(found["scores"], case[f"im{i}.scores"], rtol=0, atol=2e-5)
        torch.testing.assert_close(found["boxes"], case[f"im{i}.boxes"], rtol=1e-6, atol=0)
