"""What a model says about a single picture: instances with boxes, without tracks (IFC on COCO)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vistool.ops.boxes import boxes_of_masks, resize_masks, xyxy_of
from vistool.structures import ClipOutput, Size


@dataclass(frozen=True, slots=True)
class ImageInstances:
    """N instances of one picture, in the order of their queries."""

    labels: Tensor  # [N] int64 in [0, K)
    scores: Tensor  # [N] the label's probability; there is no threshold
    boxes_xyxy: Tensor  # [N, 4] pixels of the original picture
    masks: Tensor  # [N, H, W] bool, at the size of the original picture


def image_instances(
    output: ClipOutput, image: int, *, canvas: Size, size: Size, original: Size
) -> ImageInstances:
    """The instances of one picture of a batch of clips of one frame, as IFC's code for COCO.

    A mask is cut from its logits on the canvas, and its box drawn around it, before both are
    brought to the original size; queries whose mask is empty are left out.

    Args:
        image: position in the batch.
        canvas: of the batch, to which its pictures were padded at the bottom and the right.
        size: of this picture as the model saw it; original: as it was before.
    """
    if output.mask_logits.shape[2] != 1:
        raise ValueError(f"one frame wanted, not a clip of {output.mask_logits.shape[2]}")
    probs = output.class_logits[image].float().softmax(-1)
    kept = (probs.argmax(-1) < probs.shape[-1] - 1).nonzero().flatten()
    boxes, masks, queries = [], [], []
    for query in kept.tolist():  # one at a time: at full size they are large
        logits = resize_masks(output.mask_logits[image, query].float(), canvas)
        mask = logits[..., : size.height, : size.width] > 0
        if mask.any():
            queries.append(query)
            boxes.append(xyxy_of(boxes_of_masks(mask)))
            masks.append(resize_masks(mask.float(), original) > 0.5)
    scores, labels = probs[queries, :-1].max(-1)
    return ImageInstances(
        labels,
        scores,
        torch.cat([probs.new_zeros(0, 4), *boxes]) * _corners(original, probs),
        torch.cat([probs.new_zeros(0, *original, dtype=torch.bool), *masks]),
    )


def _corners(size: Size, like: Tensor) -> Tensor:
    """What fractions of a picture are multiplied with to be pixels, for xyxy boxes."""
    return like.new_tensor([size.width, size.height, size.width, size.height])
