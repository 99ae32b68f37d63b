"""Instances of single pictures: equal to what IFC's published code finds, as on COCO."""

from __future__ import annotations

import pytest
import torch

from tests.recorded import recorded, recorded_json
from tests.test_ifc import normalised, padded_batch, small_ifc
from vistool.structures import ClipOutput, Size
from vistool.tracking.single_image import image_instances


@pytest.mark.parity
def test_pictures_of_two_sizes_give_the_recorded_instances() -> None:
    case = recorded("ifc/small_coco_image")
    meta = recorded_json("ifc/small_meta")
    pictures = [case[f"im{i}.in"] for i in (0, 1)]
    pixels, padded = padded_batch([normalised(p[None], meta["config"]) for p in pictures])
    with torch.no_grad():
        output = small_ifc()(pixels, padded)
    for i, picture in enumerate(pictures):
        expected = case[f"im{i}.masks"].bool()
        found = image_instances(
            output,
            i,
            canvas=Size(*pixels.shape[-2:]),
            size=Size(*picture.shape[-2:]),
            original=Size(*expected.shape[-2:]),
        )
        assert len(found.labels) == meta["coco_kept"][i]
        assert torch.equal(found.labels, case[f"im{i}.classes"])
        assert torch.equal(found.masks, expected)
        # Logits differ by up to 1e-4 from the recorded ones, boxes by rounding alone.
        torch.testing.assert_close(found.scores, case[f"im{i}.scores"], rtol=0, atol=2e-5)
        torch.testing.assert_close(found.boxes_xyxy, case[f"im{i}.boxes"], rtol=1e-6, atol=0)


def test_queries_for_nothing_and_empty_masks_are_left_out() -> None:
    class_logits = torch.tensor([[[5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 5.0]]])
    mask_logits = torch.ones(1, 3, 1, 4, 4)
    mask_logits[0, 1] = -1.0
    size = Size(32, 32)
    found = image_instances(
        ClipOutput(class_logits, mask_logits), 0, canvas=size, size=size, original=Size(10, 20)
    )
    assert found.labels.tolist() == [0]
    assert found.masks.all()
    assert found.boxes_xyxy.tolist() == [[0, 0, 20, 10]]


def test_a_picture_of_nothing_has_no_instances() -> None:
    output = ClipOutput(torch.tensor([[[0.0, 0.0, 5.0]]]), torch.ones(1, 1, 1, 4, 4))
    size = Size(32, 32)
    found = image_instances(output, 0, canvas=size, size=size, original=size)
    assert (len(found.labels), found.boxes_xyxy.shape, found.masks.shape) == (
        0,
        (0, 4),
        (0, 32, 32),
    )


def test_a_clip_is_no_picture() -> None:
    output = ClipOutput(torch.zeros(1, 1, 3), torch.ones(1, 1, 2, 4, 4))
    with pytest.raises(ValueError, match="one frame wanted, not a clip of 2"):
        image_instances(output, 0, canvas=Size(8, 8), size=Size(8, 8), original=Size(8, 8))
