"""Drawing: colours that tell tracks apart, overlays that sit where the masks are, whole videos."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import vistool
from vistool.cli.app import app
from vistool.config import OverlayStyle
from vistool.errors import DataError, UsageError
from vistool.formats.masks.rle import encode_mask
from vistool.formats.results.files import Category, VideoMeta, write_meta, write_results
from vistool.formats.video import ffmpeg
from vistool.formats.video.reader import open_video
from vistool.formats.video.writer import VideoWriter
from vistool.rendering.overlay import DEFAULT_STYLE, draw_tracks
from vistool.rendering.palette import Color, text_color, track_color
from vistool.structures import Size, Track, TrackSegmentation

PLAIN = OverlayStyle(contours=False, labels=False)
GREY = 100


# Colours


def lab_distance(first: Color, second: Color) -> float:
    """CIE76, by OpenCV: about 2 is the least that an eye can tell apart."""
    pixels = np.array([[first, second]], np.float32) / 255
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[0]
    return float(np.linalg.norm(lab[0] - lab[1]))


@given(track_id=st.integers(1, 10_000))
def test_neighbouring_ids_look_clearly_different(track_id: int) -> None:
    for neighbour in (track_id + 1, track_id + 2):
        assert lab_distance(track_color(track_id), track_color(neighbour)) > 40


def test_the_first_ten_colours_can_all_be_told_apart() -> None:
    pairs = combinations(range(1, 11), 2)
    assert min(lab_distance(track_color(a), track_color(b)) for a, b in pairs) > 20


def test_the_colours_of_a_few_tracks_are_far_apart() -> None:
    pairs = combinations(range(1, 6), 2)
    assert min(lab_distance(track_color(a), track_color(b)) for a, b in pairs) > 60


@given(track_id=st.integers(1, 10_000))
def test_text_is_readable_on_every_colour(track_id: int) -> None:
    def luminance(color: Color) -> float:
        parts = [c / 255 for c in color]
        r, g, b = (((p + 0.055) / 1.055) ** 2.4 if p > 0.04045 else p / 12.92 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    background = track_color(track_id)
    dark, light = sorted((luminance(background), luminance(text_color(background))))
    assert (light + 0.05) / (dark + 0.05) >= 3.5  # WCAG asks for 3 for large and bold text


# Overlays


def picture(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def disc(height: int, width: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - row, columns - column) <= radius


Drawn = tuple[Track, np.ndarray]


def instance(mask: np.ndarray, track_id: int = 1, label: str = "person") -> Drawn:
    return Track(track_id, 1, label, 0.87), mask


def draw(
    image: np.ndarray, instances: Sequence[Drawn], style: OverlayStyle = DEFAULT_STYLE
) -> np.ndarray:
    tracks, masks = [track for track, _ in instances], [mask for _, mask in instances]
    return draw_tracks(image, tracks, masks, style)


def changed(image: np.ndarray, *instances: Drawn, **style: Any) -> np.ndarray:
    """[H, W] bool: where drawing made a difference."""
    return (draw(image, instances, OverlayStyle(**style)) != image).any(axis=2)


def test_a_mask_is_mixed_with_its_colour_exactly_where_it_is() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    mask = disc(60, 80, 30, 40, 15) & ~disc(60, 80, 30, 40, 5) | disc(60, 80, 5, 75, 3)
    drawn = draw(image, [instance(mask, 4)], OverlayStyle(**vars_of(PLAIN), alpha=0.3))
    mixed = 0.7 * image[mask] + 0.3 * np.array(track_color(4))
    assert np.abs(drawn[mask] - mixed).max() <= 0.5 + 1e-6  # rounding
    np.testing.assert_array_equal(drawn[~mask], image[~mask])


def vars_of(style: OverlayStyle) -> dict[str, bool]:
    return {"contours": style.contours, "labels": style.labels}


def test_drawing_leaves_the_given_image_alone() -> None:
    image = picture(50, 50)
    draw(image, [instance(disc(50, 50, 25, 25, 10))])
    assert (image == GREY).all()


def test_contours_follow_every_part_and_every_hole() -> None:
    mask = disc(120, 160, 60, 60, 40) & ~disc(120, 160, 60, 60, 20) | disc(120, 160, 30, 140, 12)
    drawn = draw(picture(120, 160), [instance(mask)], OverlayStyle(alpha=0, labels=False))
    line = (drawn != GREY).any(axis=2)
    kernel = np.ones((5, 5), np.uint8)
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, kernel).astype(bool)
    assert not (line & ~edge).any()
    for row, column in ((60, 20), (60, 40), (60, 100), (30, 128)):  # outer, hole, outer, small part
        assert line[row - 2 : row + 3, column - 2 : column + 3].any()


def test_contours_are_as_thick_as_the_picture_is_large() -> None:
    def line_width(height: int, width: int) -> int:
        mask = np.zeros((height, width), bool)
        mask[:, : width // 2] = True
        lines = changed(picture(height, width), instance(mask), alpha=0.0, labels=False)
        return int(lines[height // 2, width // 4 : 3 * width // 4].sum())

    assert line_width(240, 320) < line_width(1080, 1920) < line_width(2160, 3840)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    boxes=st.lists(st.tuples(*[st.integers(0, 89)] * 4), max_size=5),
    label=st.text(max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_any_masks_on_any_picture_can_be_drawn(
    height: int, width: int, boxes: list[tuple[int, int, int, int]], label: str
) -> None:
    instances = []
    for number, (top, left, rows, columns) in enumerate(boxes, start=1):
        mask = np.zeros((height, width), bool)
        mask[top : top + rows, left : left + columns] = True
        instances.append(instance(mask, number, label))
    drawn = draw(picture(height, width), instances)
    assert drawn.shape == (height, width, 3)
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize(
    ("row", "column"), [(0, 0), (0, 200), (239, 319), (120, 319), (239, 0), (120, 160)]
)
def test_a_label_lies_inside_the_frame_wherever_the_object_is(row: int, column: int) -> None:
    image, shown = picture(240, 320), instance(disc(240, 320, row, column, 12))
    label = changed(image, shown) & ~changed(image, shown, labels=False)
    whole = changed(image, instance(disc(240, 320, 120, 160, 12))) & ~changed(
        image, instance(disc(240, 320, 120, 160, 12)), labels=False
    )
    assert label.sum() > 0.8 * whole.sum()


def test_a_label_stands_at_the_top_of_the_largest_part() -> None:
    image = picture(480, 640)
    mask = disc(480, 640, 300, 200, 60) | disc(480, 640, 60, 560, 8)
    label = changed(image, instance(mask), alpha=0.0, contours=False)
    rows, columns = np.nonzero(label)
    assert 200 < rows.mean() < 242  # the large part begins at row 240
    assert abs(columns.mean() - 200) < 5


def test_labels_of_objects_in_one_place_do_not_cover_each_other() -> None:
    image = picture(240, 320)
    mask = disc(240, 320, 120, 160, 30)
    one = changed(image, instance(mask, 1), alpha=0.0, contours=False).sum()
    both = changed(image, instance(mask, 1), instance(mask, 2), alpha=0.0, contours=False).sum()
    assert both > 1.9 * one


def test_labels_keep_a_readable_size_from_240p_to_1080p_and_portrait() -> None:
    def label_height(height: int, width: int) -> int:
        shown = instance(disc(height, width, height / 2, width / 2, height / 8))
        label = changed(picture(height, width), shown, alpha=0.0, contours=False)
        return int(label.any(axis=1).sum())

    assert 14 <= label_height(240, 426) <= 20
    assert 30 <= label_height(1080, 1920) <= 45
    assert label_height(1920, 1080) == label_height(1080, 1920)


def test_a_label_never_fills_a_tiny_picture() -> None:
    shown = instance(disc(48, 64, 30, 30, 10), track_id=3, label="large vehicle")
    label = changed(picture(48, 64), shown, alpha=0.0, contours=False)
    assert 0 < label.sum() < 0.2 * label.size


def test_scores_and_labels_can_be_left_out() -> None:
    image, shown = picture(240, 320), instance(disc(240, 320, 120, 160, 30))
    plain = changed(image, shown, alpha=0.0, contours=False, labels=False)
    assert not plain.any()
    without = changed(image, shown, alpha=0.0, contours=False, scores=False).sum()
    assert without < changed(image, shown, alpha=0.0, contours=False).sum()


def test_where_masks_overlap_the_smaller_one_is_seen_in_its_own_colour() -> None:
    small, large = instance(disc(100, 100, 50, 50, 8), 1), instance(disc(100, 100, 50, 50, 40), 2)
    alone = draw(picture(100, 100), [small], PLAIN)
    for order in ([small, large], [large, small]):
        drawn = draw(picture(100, 100), order, PLAIN)
        np.testing.assert_array_equal(drawn[small[1]], alone[small[1]])
        assert (drawn[50, 75] != GREY).any()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(10, 20\)"):
        draw(picture(20, 10), [instance(np.ones((10, 20), bool))])


# Whole videos

SIZE = Size(96, 128)
LENGTH = 6
CENTRES = {
    1: [(24, 20 + 8 * t) for t in range(LENGTH)],
    2: [(70, 100 - 8 * t) for t in range(LENGTH)],
}
TIMES = [0.0, 0.1, 0.2, 0.5, 0.55, 0.9]


def write_video(path: Path, length: int = LENGTH, size: Size = SIZE) -> Path:
    with VideoWriter(path, size, fps=10) as writer:
        for time in TIMES[:length]:
            writer.write(picture(*size), time)
    return path


def entry(
    track_id: int, *, score: float = 0.9, category: int = 3, **other: Any
) -> TrackSegmentation:
    masks = [encode_mask(disc(*SIZE, *centre, 14)) for centre in CENTRES[track_id]]
    values = {"video_id": 1, "category_id": category, "score": score, "segmentations": masks}
    return TrackSegmentation(**{**values, **other})  # type: ignore[typeddict-item]


def write_run(folder: Path, entries: Sequence[TrackSegmentation], **changes: Any) -> Path:
    """A run folder whose track ids are 2, 1 unless told otherwise."""
    folder.mkdir(exist_ok=True)
    write_results(folder / "results.json", entries)
    ids = changes.pop("track_ids", [2, 1][: len(entries)])
    tracks = [
        Track(i, 3, "car", e["score"], range(len(e["segmentations"])))
        for i, e in zip(ids, entries, strict=True)
    ]
    values: dict[str, Any] = {
        "source": "video.mp4", "video_id": 1, "width": SIZE.width, "height": SIZE.height,
        "length": LENGTH, "complete": True, "first_frame": 0, "times": TIMES, "frame_stride": 1,
        "rotation": 0, "fps": 10.0, "categories": [Category(id=3, name="car")], "model": {},
        "settings": {}, "versions": {},
    }  # fmt: skip
    write_meta(folder / "meta.json", VideoMeta(**{**values, **changes}), tracks)
    return folder


def render_video(source: Path, results: Path, output: Path, **options: Any) -> Path:
    with vistool.load(results, source=source, **options) as video:
        return video.render(output, exist_ok=True)


def read_frames(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with open_video(path) as reader:
        frames = list(reader.frames())
    return [frame.time for frame in frames], [frame.image for frame in frames]


def shows(image: np.ndarray, centre: tuple[int, int], track_id: int) -> bool:
    """Is the opaque colour of a track there, as far as video coding leaves it?"""
    row, column = centre
    seen = image[row - 3 : row + 4, column - 3 : column + 4].mean(axis=(0, 1))
    return bool(np.abs(seen - track_color(track_id)).max() < 25)


@pytest.fixture
def render(tmp_path: Path) -> Callable[..., list[np.ndarray]]:
    """Render a run folder on the synthetic video, opaque and without labels; the drawn frames."""

    def run(results: Path, source: Path | None = None, **options: Any) -> list[np.ndarray]:
        opaque: dict[str, Any] = {"alpha": 1.0, "contours": False, "labels": False}
        conf = options.pop("conf", 0.0)
        source = source or write_video(tmp_path / "v.mp4")
        with vistool.load(results, source=source, **options) as video:
            return read_frames(
                video.render(tmp_path / "drawn.mp4", conf=conf, exist_ok=True, **opaque)
            )[1]

    return run


def test_every_track_is_drawn_in_its_colour_on_every_frame(
    tmp_path: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    frames = render(write_run(tmp_path / "run", [entry(2), entry(1)]))
    assert len(frames) == LENGTH
    for t, image in enumerate(frames):
        for track_id, centres in CENTRES.items():
            assert shows(image, centres[t], track_id), (t, track_id)
        assert np.abs(image[-1] - GREY).max() < 12  # nothing is drawn at the bottom


def test_an_overlay_keeps_the_time_stamps_of_its_source(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4")
    output = render_video(source, write_run(tmp_path / "run", []), tmp_path / "o.mp4")
    assert read_frames(output)[0] == pytest.approx(TIMES, abs=1e-3)


def test_an_overlay_has_the_shape_of_its_source(tmp_path: Path) -> None:
    square, source = write_video(tmp_path / "square.mp4"), tmp_path / "wide.mp4"
    command = [ffmpeg.program(), "-v", "error", "-i", str(square), "-c", "copy", "-aspect", "8:3"]
    subprocess.run([*command, str(source)], check=True)
    output = render_video(source, write_run(tmp_path / "run", [entry(1)]), tmp_path / "o.mp4")
    with open_video(output) as reader:
        assert reader.size == SIZE
        assert reader.pixel_aspect == 2


def test_results_without_meta_are_numbered_in_their_order(
    tmp_path: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    write_results(tmp_path / "any.json", [entry(2), entry(1)])
    frames = render(tmp_path / "any.json")
    assert shows(frames[0], CENTRES[2][0], 1)
    assert shows(frames[0], CENTRES[1][0], 2)


def test_frames_that_the_model_did_not_see_show_the_last_masks(
    tmp_path: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    seen = entry(1)
    for t in (1, 2, 4, 5):
        seen["segmentations"][t] = None
    frames = render(write_run(tmp_path / "run", [seen], frame_stride=3, track_ids=[1]))
    for t, image in enumerate(frames):
        assert shows(image, CENTRES[1][t - t % 3], 1)


def test_a_part_of_the_source_is_drawn_where_it_belongs(
    tmp_path: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    part = entry(1)
    part["segmentations"] = part["segmentations"][2:5]
    run = write_run(
        tmp_path / "run", [part], track_ids=[1], first_frame=2, length=3, times=TIMES[2:5],
        settings={"end": 0.6},
    )  # fmt: skip
    frames = render(run)
    assert len(frames) == 3
    assert all(shows(image, CENTRES[1][t + 2], 1) for t, image in enumerate(frames))


def test_tracks_below_the_wanted_score_are_not_drawn(
    tmp_path: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    run = write_run(tmp_path / "run", [entry(2, score=0.4), entry(1)])
    frames = render(run, conf=0.5)
    assert shows(frames[0], CENTRES[1][0], 1)
    assert not shows(frames[0], CENTRES[2][0], 2)


def test_a_track_with_several_classes_is_drawn_once_as_the_likeliest(
    tmp_path: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    # Different masks only so that the test sees which entry was drawn.
    for entries in ([entry(2, score=0.4), entry(1)], [entry(1), entry(2, score=0.4)]):
        frames = render(write_run(tmp_path / "run", entries, track_ids=[7, 7]))
        assert shows(frames[0], CENTRES[1][0], 7)
        assert not shows(frames[0], CENTRES[2][0], 7)


def test_a_folder_of_frames_can_be_drawn_on(
    tmp_path: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(LENGTH):
        cv2.imwrite(str(folder / f"{t}.png"), picture(*SIZE))
    frames = render(write_run(tmp_path / "run", [entry(1)], track_ids=[1]), folder)
    assert all(shows(image, CENTRES[1][t], 1) for t, image in enumerate(frames))


def test_the_sound_of_the_source_goes_along(tmp_path: Path) -> None:
    silent, source = write_video(tmp_path / "silent.mp4"), tmp_path / "loud.mp4"
    sound = ["-f", "lavfi", "-i", "sine=duration=1", "-c:v", "copy", "-c:a", "aac", "-shortest"]
    command = [ffmpeg.program(), "-v", "error", "-i", str(silent), *sound, str(source)]
    subprocess.run(command, check=True)
    output = render_video(source, write_run(tmp_path / "run", [entry(1)]), tmp_path / "o.mp4")
    with open_video(output) as reader:
        assert reader.has_audio
    with open_video(silent) as reader:
        assert not reader.has_audio


@pytest.mark.parametrize(
    ("length", "size", "numbers"),
    [
        (LENGTH - 1, SIZE, "6 frames.*only 5"),
        (LENGTH, Size(48, 64), "128x96.*64x48"),
    ],
)
def test_results_of_another_video_are_refused_with_the_numbers(
    tmp_path: Path, length: int, size: Size, numbers: str
) -> None:
    source = write_video(tmp_path / "other.mp4", length, size)
    run = write_run(tmp_path / "run", [entry(1)])
    with pytest.raises(DataError, match=numbers):
        render_video(source, run, tmp_path / "o.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"other.mp4", "run"}


def test_a_source_that_goes_on_after_the_results_is_refused_unless_they_were_cut(
    tmp_path: Path,
) -> None:
    source = write_video(tmp_path / "v.mp4")
    short = entry(1)
    short["segmentations"] = short["segmentations"][:4]
    changes: dict[str, Any] = {"length": 4, "times": TIMES[:4]}
    with pytest.raises(DataError, match=r"4 frames.*more"):
        render_video(source, write_run(tmp_path / "run", [short], **changes), tmp_path / "o.mp4")
    for cut in ({"settings": {"end": 0.52}}, {"complete": False}):
        run = write_run(tmp_path / "run", [short], **changes, **cut)
        assert len(read_frames(render_video(source, run, tmp_path / "o.mp4"))[1]) == 4


def test_results_and_meta_of_two_runs_are_refused(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4")
    for entries in ([entry(1), entry(2)], []):
        run = write_run(tmp_path / "run", [entry(1)])
        write_results(run / "results.json", entries)
        with pytest.raises(DataError, match="describes 1 results, but the file has"):
            render_video(source, run, tmp_path / "o.mp4")


def test_of_results_of_another_size_nothing_is_drawn_even_without_a_mask(tmp_path: Path) -> None:
    source = write_video(tmp_path / "other.mp4", LENGTH, Size(48, 64))
    with pytest.raises(DataError, match=r"128x96.*64x48"):
        render_video(source, write_run(tmp_path / "run", []), tmp_path / "o.mp4")


# One of several videos


@pytest.fixture
def of_several(tmp_path: Path) -> Path:
    """Results of two videos; the first one's are longer."""
    long = entry(1)
    long["segmentations"] = long["segmentations"] * 2
    results = tmp_path / "all" / "results.json"
    write_results(results, [long, entry(2, video_id=5), entry(1, video_id=5)])
    return results


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The annotations of the second one in a data set."""
    names = [f"deer/{t}.jpg" for t in range(LENGTH)]
    about = {"width": SIZE.width, "height": SIZE.height, "length": LENGTH}
    content = {
        "videos": [{"id": 5, "name": "deer", "file_names": names, **about}],
        "categories": [{"id": 3, "name": "red deer"}],
    }
    path = tmp_path / "valid.json"
    path.write_text(json.dumps(content))
    return path


def test_which_of_several_videos_is_meant_must_be_said(tmp_path: Path, of_several: Path) -> None:
    source = write_video(tmp_path / "v.mp4")
    with pytest.raises(DataError, match="several videos, 1, 5") as refused:
        render_video(source, of_several, tmp_path / "o.mp4")
    assert "--video 1" in refused.value.hint
    for wrong in (7, "deer"):
        with pytest.raises(UsageError, match=f"no results of video '{wrong}'") as unknown:
            render_video(source, of_several, tmp_path / "o.mp4", video=wrong)
        assert "1, 5" in unknown.value.hint


def test_the_results_of_the_chosen_video_are_drawn(
    of_several: Path, labels: Path, render: Callable[..., list[np.ndarray]]
) -> None:
    for options in ({"video": 5}, {"video": "5"}, {"video": "deer", "annotations": labels}):
        frames = render(of_several, **options)
        assert len(frames) == LENGTH
        for t, image in enumerate(frames):
            assert shows(image, CENTRES[2][t], 1)
            assert shows(image, CENTRES[1][t], 2)


def test_classes_have_the_names_of_the_data_set(
    tmp_path: Path, of_several: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def note(image: np.ndarray, tracks: Sequence[Track], *_: object) -> np.ndarray:
        shown.append({track.class_name for track in tracks})
        return image

    monkeypatch.setattr("vistool.engine.tracked_video.draw_tracks", note)
    source = write_video(tmp_path / "v.mp4")
    render_video(source, of_several, tmp_path / "o.mp4", video=5)
    assert shown == [{"class 3"}] * LENGTH
    shown.clear()
    render_video(source, of_several, tmp_path / "o.mp4", video=5, annotations=labels)
    assert shown == [{"red deer"}] * LENGTH


def test_each_of_several_videos_has_a_file_of_its_own(of_several: Path, labels: Path) -> None:
    source = write_video(of_several.with_name("deer.mp4"))
    command = ["render", source, of_several.parent, "--video", "deer", "--annotations", labels]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(of_several.with_name("overlay-deer.mp4"))
    assert len(read_frames(of_several.with_name("overlay-deer.mp4"))[1]) == LENGTH


def test_masks_that_are_not_compressed_are_refused_with_the_way_out(tmp_path: Path) -> None:
    mask = {"size": list(SIZE), "counts": [SIZE.height * SIZE.width]}
    track = {"video_id": 1, "category_id": 3, "score": 0.9, "segmentations": [mask] * LENGTH}
    (tmp_path / "lists.json").write_text(json.dumps([track]))
    with pytest.raises(DataError, match="result 0") as refused:
        render_video(write_video(tmp_path / "v.mp4"), tmp_path / "lists.json", tmp_path / "o.mp4")
    assert "vistool data check --results" in refused.value.hint


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4")
    before = source.read_bytes()
    with pytest.raises(UsageError, match="would replace the source"):
        render_video(source, write_run(tmp_path / "run", [entry(1)]), source)
    assert source.read_bytes() == before


def test_only_mp4_is_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [entry(1)])
    with pytest.raises(UsageError, match=r"\.mp4"):
        render_video(write_video(tmp_path / "v.mp4"), run, tmp_path / "o.avi")
