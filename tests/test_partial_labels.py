"""Which predictions are evaluated in videos where not every object is labelled."""

from __future__ import annotations

import numpy as np

from vistool.annotations.dataset import AnnotatedTrack
from vistool.formats.masks.rle import encode_mask
from vistool.metrics.overlaps import track_share_inside
from vistool.metrics.partial_labels import scorable
from vistool.structures import RLE, TrackSegmentation

CAT, DOG = 1, 2


def block(left: int, right: int, height: int = 10) -> RLE:
    """Columns `left` to `right` of a mask 30 pixels wide."""
    mask = np.zeros((height, 30), bool)
    mask[:, left:right] = True
    return encode_mask(mask)


def found(left: int, right: int, category: int) -> TrackSegmentation:
    return {
        "video_id": 1,
        "category_id": category,
        "score": 0.5,
        "segmentations": [block(left, right), None],
    }


def kept(predictions: list[TrackSegmentation], *exhaustive: int) -> list[int]:
    """Indices of the evaluated predictions: a cat is on columns 0 to 10, a thing on 20 to 30."""
    cat = AnnotatedTrack(1, CAT, [block(0, 10), block(0, 10)])
    thing = [block(20, 30), None]
    chosen = scorable(predictions, [cat], exhaustive=exhaustive, ignored=[thing])
    return [place for place, p in enumerate(predictions) if any(p is c for c in chosen)]


def test_in_a_partly_labelled_category_only_predictions_on_labelled_objects_count() -> None:
    predictions = [found(0, 10, CAT), found(5, 15, CAT), found(8, 15, CAT), found(12, 18, CAT)]
    assert kept(predictions) == [0, 1]
    assert kept(predictions, CAT) == [0, 1, 2, 3]


def test_a_prediction_on_another_category_counts_if_its_own_is_exhaustively_labelled() -> None:
    assert kept([found(0, 10, DOG)]) == []
    assert kept([found(0, 10, DOG)], DOG) == [0]


def test_a_prediction_on_an_object_without_a_category_never_counts() -> None:
    assert kept([found(20, 30, CAT), found(24, 30, DOG), found(12, 21, DOG)], CAT, DOG) == [2]
    assert kept([]) == []


def test_the_share_of_a_track_in_a_region_is_taken_over_all_frames() -> None:
    track = [block(0, 10), block(0, 10), None]
    regions: list[list[RLE | None]] = [[block(5, 30), None, block(0, 30)], [None] * 3]
    assert track_share_inside([track, [None] * 3], regions).tolist() == [[0.25, 0], [0, 0]]


def test_a_prediction_in_a_group_of_its_category_never_counts_and_others_do() -> None:
    """This holds for small predictions, too: a cat is on columns 0 to 10, a group on 8 to 30."""
    cat = AnnotatedTrack(1, CAT, [block(0, 10), None])
    group = AnnotatedTrack(1, CAT, [block(8, 30), None], is_crowd=True)
    predictions = [
        found(0, 10, CAT),  # the cat
        found(12, 14, CAT),  # in the group
        found(12, 14, DOG),  # not of the group's category
        found(8, 10, CAT),  # in the group, and a part of the cat: a duplicate
        found(2, 20, CAT),  # most of it in the group
        found(4, 9, DOG),
    ]
    chosen = scorable(predictions, [cat, group], exhaustive=[CAT, DOG])
    assert [predictions.index(p) for p in chosen] == [0, 2, 3, 5]
