"""Comparing two results: bootstrap samples are scored exactly; noise is not significant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_tracks import davis_of, hota_of
from vistool.annotations.dataset import AnnotatedTrack
from vistool.formats.masks.rle import encode_mask
from vistool.metrics.ap import APBuilder, average_precision
from vistool.metrics.bootstrap import (
    Measure,
    ap_measure,
    davis_measure,
    hota_measure,
    paired_bootstrap,
)
from vistool.metrics.hota import hota_summary
from vistool.metrics.overlaps import VideoOverlaps, overlaps_of_video
from vistool.structures import RLE, TrackSegmentation

CATEGORIES = (1, 2)
SIDE = 24  # pixels of the pictures
FRAMES = 2


def videos_of(seed: int, count: int) -> list[VideoOverlaps]:
    """Rectangles on small videos, and predictions near them; no two scores are equal."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.linspace(0.05, 0.95, 8 * count)).tolist()

    def box() -> RLE:
        mask = np.zeros((SIDE, SIDE), bool)
        top, left = rng.integers(0, 12, 2)
        height, width = rng.integers(4, 12, 2)
        mask[top : top + height, left : left + width] = True
        return encode_mask(mask)

    def near(mask: RLE | None) -> RLE | None:
        return mask if rng.random() < 0.7 else box()

    videos = []
    for video in range(count):
        truth = [
            AnnotatedTrack(video, int(rng.integers(1, 3)), [box() for _ in range(FRAMES)])
            for _ in range(rng.integers(0, 4))
        ]
        found: list[TrackSegmentation] = []
        for _ in range(rng.integers(0, 8)):
            masks: list[RLE | None] = [box() for _ in range(FRAMES)]
            category = int(rng.integers(1, 3))
            if truth and rng.random() < 0.7:
                meant = truth[rng.integers(len(truth))]
                masks = [near(mask) for mask in meant.segmentations]
                category = meant.category_id
            found.append(
                {
                    "video_id": video,
                    "category_id": category,
                    "score": scores.pop(),
                    "segmentations": masks,
                }
            )
        videos.append(overlaps_of_video(video, truth, found))
    return videos


def measure_of(videos: list[VideoOverlaps]) -> Measure:
    builder = APBuilder(CATEGORIES)
    for video in videos:
        builder.add(video)
    return ap_measure(builder.outcomes(), CATEGORIES)


def copies(videos: list[VideoOverlaps], drawn: np.ndarray) -> list[VideoOverlaps]:
    """The data set that contains every video as often as it was drawn."""
    return [video for video, times in zip(videos, drawn, strict=True) for _ in range(times)]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 5), st.data())
def test_a_sample_scores_as_the_set_with_repeated_videos(
    seed: int, count: int, data: st.DataObject
) -> None:
    videos = videos_of(seed, count)
    drawn = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count), label="drawn")
    )
    chosen = copies(videos, drawn)
    found = {name: value[0] for name, value in measure_of(videos)(drawn[None]).items()}
    expected = average_precision(chosen, category_ids=CATEGORIES).summary()
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(found) == list(expected)  # the official order
    ids = [video.video_id for video in videos]
    hota = hota_measure(hota_of(videos), ids)(drawn[None])
    assert {n: v[0] for n, v in hota.items()} == pytest.approx(hota_summary(hota_of(chosen)))
    davis = davis_measure(davis_of(videos), ids)(drawn[None])
    summary = davis_of(chosen).summary()
    assert {n: v[0] for n, v in davis.items()} == pytest.approx({n: summary[n] for n in davis})


def test_all_samples_together_give_the_scores_of_single_samples() -> None:
    measure = measure_of(videos_of(3, 6))
    drawn = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=20)
    together = measure(drawn)
    for place, one in enumerate(drawn):
        alone = {name: value[0] for name, value in measure(one[None]).items()}
        assert {n: value[place] for n, value in together.items()} == pytest.approx(alone, abs=1e-12)


def by_value(values: list[float]) -> Measure:
    """A measure that is the mean of one value per video."""

    def measure(drawn: np.ndarray) -> dict[str, np.ndarray]:
        return {"AP": drawn @ np.array(values) / drawn.sum(axis=1)}

    return measure


def test_a_gain_on_every_video_is_significant_however_much_videos_differ() -> None:
    quality = np.random.default_rng(0).random(30)
    (gain,) = paired_bootstrap(
        by_value(list(quality)), by_value(list(quality + 0.01)), 30, samples=2000
    )
    assert gain.difference == pytest.approx(0.01)
    assert gain.low == pytest.approx(0.01)
    assert gain.high == pytest.approx(0.01)
    assert gain.p < 0.01


def test_a_gain_on_some_videos_and_a_loss_on_as_many_is_not_significant() -> None:
    better = [0.6] * 10 + [0.4] * 9
    worse = [0.4] * 10 + [0.6] * 9
    (found,) = paired_bootstrap(by_value(worse), by_value(better), 19, samples=2000)
    assert found.low < 0 < found.high
    assert found.p > 0.3


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    gains = np.random.default_rng(1).normal(0.02, 0.1, 400)
    (found,) = paired_bootstrap(by_value([0.0] * 400), by_value(list(gains)), 400, samples=4000)
    error = gains.std() / 20
    assert found.low == pytest.approx(gains.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(gains.mean() + 1.96 * error, abs=0.1 * error)


def test_a_seed_gives_the_same_answer_and_another_seed_nearly_the_same() -> None:
    a, b = measure_of(videos_of(1, 12)), measure_of(videos_of(2, 12))
    first, again, other = (paired_bootstrap(a, b, 12, samples=500, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert first[0].low == pytest.approx(other[0].low, abs=0.05)


def test_scores_without_labels_are_left_out() -> None:
    videos = videos_of(5, 4)
    names = [
        d.name for d in paired_bootstrap(measure_of(videos), measure_of(videos), 4, samples=2000)
    ]
    assert "AP" in names
    assert "APl" not in names  # no labelled track is that large
