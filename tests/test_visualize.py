"""`vistool visualize`: sheets of training clips, labelled videos and results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from tests.made_data import COLOURS, make_pictures
from tests.made_data import make_video as make_set
from tests.untrained import save_untrained
from vistool.cli.app import app
from vistool.config import SourceConfig, TrainConfig
from vistool.data.batches import Batch
from vistool.engine.draw.results_sheet import view_results
from vistool.engine.train.setup import training_batches
from vistool.engine.train.sheet import training_sheet
from vistool.formats.results.files import read_results
from vistool.formats.video.writer import VideoWriter
from vistool.rendering.contact_sheet import LONGEST_SIDE, SheetRow, contact_sheet
from vistool.rendering.palette import track_color
from vistool.rendering.timeline import Lane, timeline
from vistool.structures import Size


def vistool(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def read(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a PNG."""
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image[..., ::-1])


def has_colour(picture: np.ndarray, colour: tuple[int, ...], tolerance: int = 3) -> bool:
    return bool((np.abs(picture.astype(int) - colour).max(-1) <= tolerance).any())


@settings(max_examples=6)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(5, 400), st.integers(5, 300)), max_size=3))
def test_every_frame_is_on_the_sheet_and_nothing_is_too_large(
    rows: list[tuple[int, int, int]],
) -> None:
    made, colours = [], []
    for n, (count, width, height) in enumerate(rows):
        frames = []
        for t in range(count):
            colours.append((30 * n, 40 * t, 200))
            frames.append(np.full((height, width, 3), colours[-1], np.uint8))
        made.append(SheetRow(f"row {n}", "note", frames, [f"{t}" for t in range(count)]))
    sheet = contact_sheet(made, "heading")
    assert all(has_colour(sheet, colour, 0) for colour in colours)
    assert sheet.shape[1] <= max(1700, 5 * (LONGEST_SIDE + 4) + 24)


def test_a_row_without_frames_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="0 frames with 0 captions"):
        contact_sheet([SheetRow("", "", [])])


def test_a_lane_is_coloured_while_its_track_is_seen() -> None:
    lanes = [Lane(1, "cat", 0.5, [(0.0, 2.0), (6.0, 10.0)]), Lane(2, "dog", 1.0, [(5.0, 10.0)])]
    picture = timeline(lanes, 0.0, 10.0, 800)
    for row, lane in enumerate(lanes):
        line = (picture[18 * row + 4] == track_color(lane.track_id)).all(-1)
        edges = np.flatnonzero(np.diff(line.astype(int)))  # before the lane is the score's bar
        assert len(edges) == 2 * len(lane.seen)
    both = [(picture[18 * row + 4] == track_color(row + 1)).all(-1).sum() for row in (0, 1)]
    assert both[0] / both[1] == pytest.approx(6 / 5, rel=0.02)


def training(data: Path, **changes: object) -> TrainConfig:
    values = {
        "classes": {"red": ("red square",), "blue": ("blue square",)},
        "sources": (SourceConfig(annotations=make_pictures(data, 4).name),),
        "canvases": ((64, 96), (96, 64)),
        "clip_length": 3,
        "batch": 2,
        "data": str(data),
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_training_sheets_show_the_training_clips(tmp_path: Path) -> None:
    config = training(tmp_path, model={"pixels": {"channel_order": "BGR"}})
    sheet = training_sheet(config, 3)
    assert [row.title.split(":")[0] for row in sheet.rows] == [
        "step 0, clip 0",
        "step 0, clip 1",
        "step 1, clip 0",
    ]
    pixels = config.model_config().pixels
    batches = training_batches(config, pixels)
    for row, (step, clip) in zip(sheet.rows, ((0, 0), (0, 1), (1, 0)), strict=True):
        batch = batches[step]
        assert isinstance(batch, Batch)
        fed = batch.pixels[clip].permute(0, 2, 3, 1).numpy() * pixels.std + pixels.mean
        masks = batch.targets[clip].masks.any(0).numpy()
        drawn = np.stack(row.frames)
        assert drawn.shape == fed.shape
        # The pixels that changed least are mostly those without mask, contour or label.
        same = np.abs(drawn - fed[..., ::-1]).max(-1) <= 1
        assert same[~masks].mean() > 0.35
        assert not same[masks].all()


def test_train_takes_a_configuration_with_changes_or_a_run(tmp_path: Path) -> None:
    config = training(tmp_path / "data")
    toml = tmp_path / "my.toml"
    toml.write_text(
        'sources = [{annotations = "pictures.json"}]\ncanvases = [[64, 96]]\n'
        'classes = {red = ["red square"], blue = ["blue square"]}\n'
    )
    output = tmp_path / "clips.png"
    done = vistool(
        *("visualize", "train", toml, "--data", tmp_path / "data", "--set", "clip_length=2"),
        *("--count", "1", "-o", output),
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(output)
    assert read(output).shape[1] >= 2 * 96

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_bytes(msgspec.json.encode(config))
    done = vistool("visualize", "train", run, "--count", "3", "-o", tmp_path / "clips")
    assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "clips").glob("*.png"))) == 3


def test_a_labelled_video_is_shown_with_its_masks_and_names(tmp_path: Path) -> None:
    path = make_set(tmp_path, 4)
    done = vistool("visualize", path, "-o", tmp_path / "sheet.png")
    assert done.exit_code == 0, done.stderr
    sheet = read(tmp_path / "sheet.png")
    for track, colour in enumerate(COLOURS.values(), start=1):
        mixed = 0.6 * np.array(colour) + 0.4 * np.array(track_color(track))
        assert has_colour(sheet, tuple(mixed))
        assert has_colour(sheet, track_color(track))  # of contour and label


def test_videos_are_chosen_by_name_or_number_or_at_random(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 6)
    folder = tmp_path / "some"
    assert vistool("visualize", path, "--videos", "3", "-o", folder).exit_code == 0
    third = read(folder / "0000.png")
    assert len(list(folder.iterdir())) == 1
    assert vistool("visualize", path, "--count", "6", "-o", tmp_path / "all").exit_code == 0
    np.testing.assert_array_equal(read(tmp_path / "all" / "0002.png"), third)
    found = set()
    for seed in "123":
        out = tmp_path / seed
        vistool("visualize", path, "--seed", seed, "--count", "2", "-o", out)
        assert len(list(out.iterdir())) == 2
        found |= {file.read_bytes() for file in out.iterdir()}
    assert len(found) > 2
    failed = vistool("visualize", path, "--videos", "nothing")
    assert failed.exit_code == 2
    assert "no video 'nothing' in it" in failed.stderr


def make_video(path: Path, length: int, grey: int = 90) -> Path:
    with VideoWriter(path, Size(64, 96), fps=10.0) as writer:
        for frame in range(length):
            image = np.full((64, 96, 3), grey, np.uint8)
            image[20:50, 2 * frame : 2 * frame + 30] = (220, 40, 40)
            writer.write(image, frame / 10)
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of an untrained model on 12 frames, with a frame stride of 2."""
    folder = tmp_path_factory.mktemp("results")
    weights = save_untrained(folder / "random.safetensors", ("person", "car"), num_queries=8)
    video = make_video(folder / "clip.mp4", 12)
    done = vistool(
        *("predict", video, "-m", weights, "-o", folder / "runs", "--conf", "0"),
        *("--no-overlay", "--frame-stride", "2"),
    )
    assert done.exit_code == 0, done.stderr
    return folder / "runs" / "clip"


def test_results_become_frames_and_a_lane_for_every_track(results: Path, tmp_path: Path) -> None:
    view = view_results(results, count=4)
    tracks = json.loads((results / "meta.json").read_text())["tracks"]
    assert [lane.track_id for lane in view.lanes] == list(range(1, len(tracks) + 1))
    assert sum(len(row.frames) for row in view.frames) == 4
    by_id = {lane.track_id: lane for lane in view.lanes}
    for track, entry in zip(tracks, read_results(results / "results.json"), strict=True):
        on = [frame for frame, mask in enumerate(entry["segmentations"]) if mask is not None]
        seen = by_id[track["track_id"]].seen
        # A frame that the model saw also stands for the next one.
        assert sum(stop - begin for begin, stop in seen) == pytest.approx(0.2 * len(on), abs=1e-3)
        assert seen[0][0] == pytest.approx(on[0] / 10, abs=1e-3)
    done = vistool("visualize", results, "-o", tmp_path / "tracks.png")
    assert done.exit_code == 0, done.stderr
    assert has_colour(read(tmp_path / "tracks.png"), track_color(view.lanes[0].track_id))


def test_results_become_a_self_contained_page(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "tracks.html"
    done = vistool("visualize", results, "--html", "-o", page)
    assert done.exit_code == 0, done.stderr
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "clip.mp4" in text
    assert "http://" not in text
    assert "https://" not in text


def test_a_missing_video_is_named_with_a_hint(results: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.mp4"
    video = results.parent.parent / "clip.mp4"
    video.rename(moved)
    try:
        failed = vistool("visualize", results, "-o", tmp_path / "tracks.png")
        assert failed.exit_code == 3
        assert "clip.mp4" in failed.stderr
        assert "--source" in failed.stderr
        done = vistool("visualize", results, "--source", moved, "-o", tmp_path / "tracks.png")
        assert done.exit_code == 0, done.stderr
    finally:
        moved.rename(video)


def test_results_of_a_longer_video_are_refused(results: Path, tmp_path: Path) -> None:
    short = make_video(tmp_path / "short.mp4", 5)
    failed = vistool("visualize", results, "--source", short, "-o", tmp_path / "tracks.png")
    assert failed.exit_code == 3
    assert "12 frames" in failed.stderr
    assert "only 5" in failed.stderr


def test_results_of_a_shorter_video_are_refused(results: Path, tmp_path: Path) -> None:
    long = make_video(tmp_path / "long.mp4", 13)
    command = ("--source", long, "--count", "1", "-o", tmp_path / "tracks.png")
    failed = vistool("visualize", results, *command)
    assert failed.exit_code == 3
    assert "12 frames" in failed.stderr
    assert "more" in failed.stderr
    assert not (tmp_path / "tracks.png").exists()


def test_results_are_drawn_on_their_video_from_any_working_directory(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, grey in ((here, 90), (there, 30)):
        folder.mkdir()
        make_video(folder / "clip.mp4", 4, grey)
    weights = results.parent.parent / "random.safetensors"
    options = ("-m", weights, "-o", "runs", "--conf", "0", "--no-overlay")
    monkeypatch.chdir(here)
    assert vistool("predict", "clip.mp4", *options).exit_code == 0
    run = here / "runs" / "clip"
    for folder in (there, tmp_path):
        monkeypatch.chdir(folder)
        done = vistool("visualize", run, "--conf", "1", "-o", "tracks.png")
        assert done.exit_code == 0, done.stderr
        assert has_colour(read(folder / "tracks.png"), (90, 90, 90), 2)
        assert not has_colour(read(folder / "tracks.png"), (30, 30, 30), 0)

    # A relative path, as other programs may write it, is not searched for in the working directory.
    meta = msgspec.json.decode((run / "meta.json").read_bytes())
    (run / "meta.json").write_bytes(msgspec.json.encode({**meta, "source": "clip.mp4"}))
    monkeypatch.chdir(there)
    failed = vistool("visualize", run, "-o", "other.png")
    assert failed.exit_code == 3
    assert "--source" in failed.stderr
    shutil.copy(here / "clip.mp4", run)  # beside the results
    assert vistool("visualize", run, "-o", "other.png").exit_code == 0


def test_a_results_file_means_its_run(results: Path, tmp_path: Path) -> None:
    for name, what in (("folder.png", results), ("file.png", results / "results.json")):
        done = vistool("visualize", what, "-o", tmp_path / name)
        assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(read(tmp_path / "folder.png"), read(tmp_path / "file.png"))


def test_results_without_meta_are_refused(results: Path, tmp_path: Path) -> None:
    shutil.copy(results / "results.json", tmp_path / "others.json")
    failed = vistool("visualize", tmp_path / "others.json")
    assert failed.exit_code == 3
    assert "no meta.json beside it" in failed.stderr
    assert "vistool render" in failed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", "0"), "--seed: does not apply to results"),
        (("--videos", "one"), "--videos: does not apply to results"),
        (("--data", "."), "--data: does not apply to results"),
        (("--html", "-o", "x.png"), "x.png: this figure can be written as .html"),
        (("-o", "folder"), "folder: this figure can be written as .png or .html"),
    ],
)
def test_options_that_do_not_apply_to_results_are_refused_before_reading(
    results: Path, options: tuple[str, ...], message: str
) -> None:
    # Reading would fail with the missing video instead.
    failed = vistool("visualize", results, "--source", "missing.mp4", *options)
    assert failed.exit_code == 2
    assert message in failed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--html",), "--html: does not apply to labelled sets"),
        (("--conf", "0"), "--conf: does not apply to labelled sets"),
        (("other.toml",), "CONFIG: does not apply to labelled sets"),
        (("--videos", "1", "--seed", "0"), "--videos names videos"),
        (("-o", "sheet.gif"), "sheet.gif: this figure can be written as .png or a folder"),
    ],
)
def test_options_that_do_not_apply_to_labels_are_refused_before_reading(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    failed = vistool("visualize", tmp_path / "missing.json", *options)
    assert failed.exit_code == 2
    assert message in failed.stderr


def test_options_that_do_not_apply_to_a_training_are_refused_before_reading(tmp_path: Path) -> None:
    for options in (("--html",), ("--videos", "1"), ("-o", "sheet.gif")):
        failed = vistool("visualize", "train", tmp_path / "missing.toml", *options)
        assert failed.exit_code == 2
        assert options[-1] in failed.stderr or "--videos" in failed.stderr


def test_a_missing_input_is_reported(tmp_path: Path) -> None:
    assert vistool("visualize", "train").exit_code == 2
    failed = vistool("visualize", tmp_path / "nothing.json")
    assert failed.exit_code == 3
    wrong = vistool("visualize", make_pictures(tmp_path, 1), "-o", tmp_path / "sheet.gif")
    assert wrong.exit_code == 2
    assert ".png" in wrong.stderr
