"""Concatenating and splitting the per-frame features that clips share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vistool.structures import FrameFeatures


def concatenate_features(parts: Sequence[FrameFeatures]) -> FrameFeatures:
    """Concatenate the frames of several parts of equal size.

    Raises: ValueError if only some of the parts have padding.
    """
    padded = [part.padded for part in parts if part.padded is not None]
    if padded and len(padded) != len(parts):
        raise ValueError("some parts are padded and others are not")
    return FrameFeatures(
        top=torch.cat([part.top for part in parts]),
        laterals=tuple(torch.cat(x) for x in zip(*(p.laterals for p in parts), strict=True)),
        padded=torch.cat(padded) if padded else None,
    )


def split_features(features: FrameFeatures) -> list[FrameFeatures]:
    """The frames of a part one by one, as copies, so that each can be freed on its own."""
    return [
        FrameFeatures(
            top=features.top[i : i + 1].clone(),
            laterals=tuple(level[i : i + 1].clone() for level in features.laterals),
            padded=None if features.padded is None else features.padded[i : i + 1].clone(),
        )
        for i in range(len(features))
    ]
