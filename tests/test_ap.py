"""Track AP: equal to recorded numbers of the YouTube-VIS evaluator, and to COCO's on one frame."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.made_tracks import ap_of
from tests.pairwise_ap import PairwiseAP
from tests.recorded import FIXTURES, recorded_json
from vistool.annotations.dataset import AnnotatedTrack
from vistool.errors import DataError
from vistool.formats.masks.rle import area, encode_mask, encode_masks
from vistool.metrics.ap import (
    VideoAP,
    average_precision,
    mean_areas,
)
from vistool.metrics.overlaps import NOT_MEASURED, overlaps_of_video
from vistool.structures import RLE, TrackSegmentation

CASES = ["case0", "case1", "case2", "case3"]


def as_rle(segmentation: Any, height: int, width: int) -> RLE | None:
    """The recordings also contain polygons and uncompressed codes."""
    if isinstance(segmentation, list):
        return coco.merge(coco.frPyObjects(segmentation, height, width))
    if segmentation and isinstance(segmentation["counts"], list):
        return coco.frPyObjects(segmentation, height, width)
    return segmentation


class Recording:
    """A synthetic data set, predictions, and the recorded results of the published evaluator."""

    def __init__(self, name: str) -> None:
        content = recorded_json(f"ytvis_eval/{name}")
        videos = {video["id"]: video for video in content["truth"]["videos"]}
        self.video_ids = list(videos)
        self.category_ids = [c["id"] for c in content["truth"]["categories"]]
        self.truth = []
        for a in content["truth"]["annotations"]:
            height, width = videos[a["video_id"]]["height"], videos[a["video_id"]]["width"]
            masks = [as_rle(s, height, width) for s in a["segmentations"]]
            track = AnnotatedTrack(a["video_id"], a["category_id"], masks, bool(a["iscrowd"]))
            self.truth.append(track)
        self.truth_areas = [a["areas"] for a in content["truth"]["annotations"]]
        self.predictions: list[TrackSegmentation] = content["predictions"]
        self.summary: dict[str, float] = content["summary"]
        self.by_category: dict[str, dict[str, float]] = content["by_category"]
        self.iou: dict[str, list[list[float]]] = content["iou"]

    def evaluate(self) -> VideoAP:
        return ap_of(
            self.truth,
            self.predictions,
            video_ids=self.video_ids,
            category_ids=self.category_ids,
        )


def assert_equals_recorded_arrays(found: VideoAP | PairwiseAP, case: str) -> None:
    with np.load(FIXTURES / "ytvis_eval" / f"{case}_arrays.npz") as expected:
        for name in ("precision", "recall"):
            np.testing.assert_allclose(getattr(found, name), expected[name], rtol=0, atol=1e-12)


@pytest.fixture(scope="module", params=CASES)
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


@pytest.mark.parity
def test_the_twelve_numbers_equal_the_recorded_ones(recording: Recording) -> None:
    assert recording.evaluate().summary() == pytest.approx(recording.summary, abs=1e-9)


@pytest.mark.parity
def test_every_category_equals_the_recorded_one(recording: Recording) -> None:
    ours = recording.evaluate().by_category()
    assert {str(category_id) for category_id in ours} == set(recording.by_category)
    for category_id, expected in recording.by_category.items():
        found = {name: ours[int(category_id)][name] for name in expected}
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_precision_and_recall_equal_the_recorded_arrays(case: str) -> None:
    assert_equals_recorded_arrays(Recording(case).evaluate(), case)


@pytest.mark.parity
def test_the_plain_loops_equal_the_recorded_arrays_too() -> None:
    content = recorded_json("ytvis_eval/case1")  # ties, ids with gaps
    truth = content["truth"]
    videos = {video["id"]: video for video in truth["videos"]}
    for a in truth["annotations"]:
        size = videos[a["video_id"]]["height"], videos[a["video_id"]]["width"]
        a["segmentations"] = [as_rle(s, *size) for s in a["segmentations"]]
    ids = [category["id"] for category in truth["categories"]]
    loops = PairwiseAP(truth["annotations"], content["predictions"], list(videos), ids)
    assert_equals_recorded_arrays(loops, "case1")


@pytest.mark.parity
def test_overlaps_of_tracks_equal_the_recorded_ones(recording: Recording) -> None:
    for key, expected in recording.iou.items():
        place = tuple(map(int, key.split(",")))
        predicted = [p for p in recording.predictions if (p["video_id"], p["category_id"]) == place]
        predicted = sorted(predicted, key=lambda p: -p["score"])[:100]
        labelled = [t for t in recording.truth if (t.video_id, t.category_id) == place]
        ours = overlaps_of_video(place[0], labelled, predicted).iou()
        np.testing.assert_allclose(ours, np.array(expected).reshape(ours.shape), atol=1e-12)


@pytest.mark.parity
def test_areas_of_masks_are_those_the_file_states(recording: Recording) -> None:
    for track, areas in zip(recording.truth, recording.truth_areas, strict=True):
        stated = [area for area in areas if area]
        ours, _ = mean_areas(overlaps_of_video(track.video_id, [replace(track, areas=None)], []))
        assert ours == pytest.approx(np.mean(stated) if stated else 0)


# --- an independent computation: COCO's evaluator on videos of one frame --------------------------


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[AnnotatedTrack], list[TrackSegmentation]]:
    """Rectangles of three categories on three images of 24 x 24, and predictions near them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def box() -> RLE:
        mask = np.zeros((24, 24), bool)
        top, left = rng.integers(0, 16, 2)
        height, width = rng.integers(4, 16, 2)
        mask[top : top + height, left : left + width] = True
        return encode_mask(mask)

    truth = [
        AnnotatedTrack(int(rng.integers(1, 4)), int(rng.integers(1, 4)), [box()])
        for _ in range(draw(st.integers(1, 12)))
    ]
    predictions: list[TrackSegmentation] = []
    for _ in range(draw(st.integers(0, 30))):
        near = truth[rng.integers(len(truth))]
        predictions.append(
            {
                "video_id": near.video_id,
                "category_id": near.category_id if rng.random() < 0.8 else int(rng.integers(1, 4)),
                # Few values, so that many scores are equal.
                "score": float(rng.integers(1, 10)) / 10,
                "segmentations": [box() if rng.random() < 0.6 else near.segmentations[0]],
            }
        )
    return truth, predictions


def coco_summary(
    truth: list[AnnotatedTrack], predictions: list[TrackSegmentation]
) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' precision [10, 101, K, 3] and recall [10, K, 3] over all areas."""
    data = COCO()
    data.dataset = {
        "info": {},
        "images": [{"id": i, "height": 24, "width": 24} for i in (1, 2, 3)],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
        "annotations": [
            {
                "id": index + 1,
                "image_id": t.video_id,
                "category_id": t.category_id,
                "segmentation": rle,
                "area": area(rle),
                "iscrowd": 0,
            }
            for index, t in enumerate(truth)
            if (rle := t.segmentations[0]) is not None
        ],
    }
    results = [
        {
            "image_id": p["video_id"],
            "category_id": p["category_id"],
            "score": p["score"],
            "segmentation": p["segmentations"][0],
        }
        for p in predictions
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        evaluator = COCOeval(data, data.loadRes(results), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0], evaluator.eval["recall"][:, :, 0]


@settings(max_examples=40, deadline=None)
@given(pictures())
def test_on_videos_of_one_frame_the_numbers_are_those_of_coco(
    case: tuple[list[AnnotatedTrack], list[TrackSegmentation]],
) -> None:
    truth, predictions = case
    ours = ap_of(truth, predictions, video_ids=[1, 2, 3], category_ids=[1, 2, 3])
    if not predictions:  # pycocotools cannot load an empty list
        assert ours.precision.max() == 0
        return
    precision, recall = coco_summary(truth, predictions)
    np.testing.assert_allclose(ours.precision[:, :, :, 0], precision, atol=1e-12)
    np.testing.assert_allclose(ours.recall[:, :, 0], recall, atol=1e-12)


# --- an independent computation: plain loops, one pair and frame at a time ------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Annotations and results of videos 3, 7 and 40, categories 2 and 5 of 2, 5 and 9.

    They include crowds, frames and whole tracks without masks, equal scores, copies, areas that
    contradict the masks, more than ten predictions of a category, and an unknown category.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = int(draw(st.sampled_from([20, 300])))  # at 300, areas are in all three ranges
    lengths = {3: 1, 7: 3, 40: 2}

    def masks(video: int) -> list[Any]:
        top, left, height, width = rng.integers(0, side - 2, 4)
        track: list[Any] = []
        for _ in range(lengths[video]):
            mask = np.zeros((side, side), bool)
            mask[top : top + height + 1, left : left + width + 1] = True
            track.append(None if rng.random() < 0.2 else encode_mask(mask))
            left = max(0, left + rng.integers(-2, 3))
        return [None] * len(track) if rng.random() < 0.05 else track

    truth: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 8))):
        video = int(rng.choice(list(lengths)))
        track = masks(video)
        areas = [m and float(coco.area(m)) for m in track]
        if rng.random() < 0.3:
            areas = [None if area is None else float(rng.integers(0, 90_000)) for area in areas]
        truth.append(
            {
                "id": number + 1,
                "video_id": video,
                "category_id": int(rng.choice([2, 5])),
                "iscrowd": int(rng.random() < 0.2),
                "segmentations": track,
                "areas": areas,
            }
        )
    predictions = []
    for _ in range(draw(st.integers(0, 40))):
        near = truth[rng.integers(len(truth))] if truth and rng.random() < 0.7 else None
        video = near["video_id"] if near else int(rng.choice(list(lengths)))
        track = near["segmentations"] if near and rng.random() < 0.5 else masks(video)
        predictions.append(
            {
                "video_id": video,
                "category_id": near["category_id"] if near else int(rng.choice([2, 5, 9, 77])),
                "score": float(rng.integers(1, 6)) / 5,
                "segmentations": [None if rng.random() < 0.1 else m for m in track],
            }
        )
    return truth, predictions


def as_tracks(truth: list[dict[str, Any]]) -> list[AnnotatedTrack]:
    return [
        AnnotatedTrack(
            a["video_id"],
            a["category_id"],
            a["segmentations"],
            bool(a["iscrowd"]),
            areas=tuple(a["areas"]),
        )
        for a in truth
    ]


@settings(max_examples=60, deadline=None)
@given(problems())
def test_every_number_is_that_of_the_loop_over_pairs(
    problem: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    truth, predictions = problem
    expected = PairwiseAP(truth, predictions, [3, 7, 40], [2, 5, 9])
    ours = ap_of(
        as_tracks(truth),
        predictions,  # type: ignore[arg-type]
        video_ids=[40, 3, 7],
        category_ids=[9, 2, 5],
    )
    np.testing.assert_allclose(ours.precision, expected.precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.recall, expected.recall, rtol=0, atol=1e-12)


def test_only_the_hundred_best_of_a_video_and_category_count() -> None:
    truth = [AnnotatedTrack(1, 1, moving_square(0))]
    others = [result(moving_square(24), 0.9 - i / 1000, category=1) for i in range(100)]
    assert ap(truth, [*others[:99], result(moving_square(0), 0.5)])["AR100"] == 1
    assert ap(truth, [*others, result(moving_square(0), 0.5)])["AR100"] == 0
    of_another = [result(moving_square(24), 0.9, category=2) for _ in range(100)]
    assert ap(truth, [*of_another, result(moving_square(0), 0.5)])["AR1"] == 1


# --- properties -----------------------------------------------------------------------------------


def moving_square(start: int, length: int = 4, side: int = 12) -> list[RLE | None]:
    masks = np.zeros((length, 40, 40), bool)
    for t in range(length):
        masks[t, start : start + side, 3 * t : 3 * t + side] = True
    return list(encode_masks(masks))


def result(masks: list[RLE | None], score: float = 0.9, category: int = 1) -> TrackSegmentation:
    return {"video_id": 1, "category_id": category, "score": score, "segmentations": masks}


def ap(truth: list[AnnotatedTrack], predictions: list[TrackSegmentation]) -> dict[str, float]:
    found = ap_of(truth, predictions, video_ids=[1], category_ids=[1, 2])
    return found.summary()


def test_ap_of_the_labels_is_one_and_without_predictions_zero() -> None:
    truth = [AnnotatedTrack(1, 1, moving_square(0)), AnnotatedTrack(1, 2, moving_square(20))]
    perfect = [result(list(t.segmentations), 0.5, t.category_id) for t in truth]
    summary = ap(truth, perfect)
    assert (summary["AP"], summary["AP75"], summary["AR10"]) == (1, 1, 1)
    assert summary["APs"] == 1
    assert summary["APl"] == NOT_MEASURED
    assert ap(truth, [])["AP50"] == 0
    assert ap(truth, perfect[:1])["AP"] == 0.5


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_of_predictions_does_not_matter(order: list[int]) -> None:
    truth = [AnnotatedTrack(1, 1, moving_square(0)), AnnotatedTrack(1, 1, moving_square(20))]
    predictions = [result(moving_square(4 * i), score=0.9 - i / 10) for i in range(6)]
    assert ap(truth, [predictions[i] for i in order]) == ap(truth, predictions)


@settings(max_examples=60, deadline=None)
@given(
    found=st.lists(st.tuples(st.integers(0, 28), st.integers(1, 9)), min_size=1, max_size=6),
    again=st.tuples(st.integers(0, 5), st.integers(0, 9)),
    crowd=st.booleans(),
)
def test_a_copy_of_a_prediction_never_raises_ap(
    found: list[tuple[int, int]], again: tuple[int, int], crowd: bool
) -> None:
    truth = [AnnotatedTrack(1, 1, moving_square(0)), AnnotatedTrack(1, 1, moving_square(20), crowd)]
    predictions = [result(moving_square(at), score / 10) for at, score in found]
    copied, less = predictions[again[0] % len(predictions)], again[1]
    copy = result(list(copied["segmentations"]), copied["score"] * (1 - less / 10))
    before, after = ap(truth, predictions), ap(truth, [*predictions, copy])
    assert all(after[name] <= before[name] + 1e-12 for name in ("AP", "AP50", "AP75", "AR100"))


def test_videos_come_in_any_order() -> None:
    rng = np.random.default_rng(0)
    videos = []
    for video in (5, 2, 9):
        truth = [AnnotatedTrack(video, 1, moving_square(0))]
        places = rng.integers(0, 6, 4)
        predictions = [{**result(moving_square(int(i))), "video_id": video} for i in places]
        videos.append(overlaps_of_video(video, truth, predictions))  # type: ignore[arg-type]
    forth = average_precision(videos, category_ids=[1])
    back = average_precision(videos[::-1], category_ids=[1])
    np.testing.assert_array_equal(forth.precision, back.precision)
    assert forth.num_truth[0, 0] == 3
    assert 0 < forth.summary()["AP"] < 1


def test_a_second_match_is_wrong_for_an_object_and_right_for_a_crowd() -> None:
    group = AnnotatedTrack(1, 1, moving_square(20), is_crowd=True)
    alone = AnnotatedTrack(1, 1, moving_square(0))
    twice = [result(moving_square(0), 0.5), result(moving_square(0), 0.9)]
    on_group = [result(moving_square(20), 0.95), result(moving_square(21), 0.99)]
    other = AnnotatedTrack(1, 1, moving_square(28))
    last = [result(moving_square(28), 0.1)]
    # Right, wrong, right: precision is 2 / 3 at the recall of both tracks.
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert ap([alone, other], twice + last)["AP50"] == pytest.approx(expected)
    assert ap([alone, other, group], twice + last)["AP50"] == pytest.approx(expected)
    assert ap([alone, group], twice[:1] + on_group)["AP50"] == 1


def test_a_frame_without_a_mask_is_an_empty_mask() -> None:
    whole = moving_square(0)
    half: list[RLE | None] = [*whole[:2], None, None]
    empty = encode_mask(np.zeros((40, 40), bool))
    found = [result(half), result([*whole[:2], empty, empty]), result([None] * 4)]
    video = overlaps_of_video(
        1, [AnnotatedTrack(1, 1, whole), AnnotatedTrack(1, 1, [empty] * 4)], found
    )
    assert video.iou().tolist() == [[0.5, 0], [0.5, 0], [0, 0]]
    labelled, predicted = mean_areas(video)
    assert labelled.tolist() == [144, 0]
    assert predicted.tolist() == [144, 144, 0]


def test_a_track_of_another_length_or_size_is_refused() -> None:
    truth = [AnnotatedTrack(1, 1, moving_square(0))]
    with pytest.raises(DataError, match="have 3 and 4 frames"):
        ap(truth, [result(moving_square(0, length=3))])
    with pytest.raises(DataError, match="sizes 20x30 and 40x40"):
        ap(truth, [result([encode_mask(np.ones((20, 30), bool))] * 4)])
