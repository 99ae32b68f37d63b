"""`predict --save` and `-o -`: all of it says what results.json says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.test_predict_command import make_video, vistool, weights
from tests.untrained import save_untrained
from vistool.annotations.mots import PER_CLASS, labels_in_text
from vistool.annotations.problems import Place
from vistool.formats.masks.rle import decode_mask
from vistool.formats.results.files import read_meta, read_results
from vistool.formats.video.reader import open_video

__all__ = ["weights"]  # a fixture
LENGTH, SKIPPED = 9, 2  # frames of the video; of these, the first ones are not asked for


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A run folder with everything saved."""
    folder = tmp_path_factory.mktemp("save")
    video = make_video(folder / "one.mp4", LENGTH)
    options = ("--conf", "0", "--start", str(SKIPPED / 10), "-m", weights, "-o", folder)
    done = vistool(
        "predict", video, *options, "--save", "csv,jsonl,mots", "--save", "davis,cutouts"
    )
    assert done.exit_code == 0, done.stderr
    return folder / "one"


class Found:
    """The content of results.json and meta.json, read without the tested code."""

    def __init__(self, run: Path) -> None:
        self.meta: dict[str, Any] = json.loads((run / "meta.json").read_text())
        self.results = read_results(run / "results.json")
        self.tracks: list[dict[str, Any]] = self.meta["tracks"]
        self.names = {c["id"]: c["name"] for c in self.meta["categories"]}

    def masks_on(self, frame: int) -> dict[int, np.ndarray]:
        """By track id, [H, W] bool."""
        return {
            track["track_id"]: decode_mask(mask)
            for track, result in zip(self.tracks, self.results, strict=True)
            if (mask := result["segmentations"][frame]) is not None
        }


@pytest.fixture(scope="module")
def found(run: Path) -> Found:
    found = Found(run)
    assert (found.meta["length"], found.meta["first_frame"]) == (LENGTH - SKIPPED, SKIPPED)
    assert len(found.results) > 1
    return found


def test_tracks_are_numbered_from_1_as_they_appear(found: Found) -> None:
    """If several begin together, the first in results.json has the lower id."""
    first = [
        next(frame for frame, mask in enumerate(result["segmentations"]) if mask)
        for result in found.results
    ]
    ids = [track["track_id"] for track in found.tracks]
    assert [track["first_frame"] for track in found.tracks] == first
    order = sorted(range(len(first)), key=lambda place: (first[place], place))
    assert [ids[place] for place in order] == list(range(1, len(first) + 1))


def test_the_table_has_a_row_for_every_mask(run: Path, found: Found) -> None:
    with (run / "tracks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    about = {track["track_id"]: track for track in found.tracks}
    length, times = found.meta["length"], found.meta["times"]
    expected = [(n, id_) for n in range(length) for id_ in sorted(found.masks_on(n))]
    assert [(int(r["frame"]) - SKIPPED, int(r["track"])) for r in rows] == expected
    for row in rows:
        frame, track = int(row["frame"]) - SKIPPED, about[int(row["track"])]
        mask = found.masks_on(frame)[track["track_id"]]
        ys, xs = mask.nonzero()
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert [int(row[k]) for k in ("left", "top", "width", "height")] == box
        assert int(row["area"]) == mask.sum()
        assert row["class"] == found.names[track["category_id"]]
        assert float(row["score"]) == pytest.approx(track["score"], abs=1e-4)
        assert float(row["time"]) == pytest.approx(times[frame], abs=1e-6)


def ids_in(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_there_is_a_line_for_every_frame(run: Path, found: Found) -> None:
    lines = [json.loads(line) for line in (run / "frames.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(SKIPPED, LENGTH))
    for frame, line in enumerate(lines):
        masks = found.masks_on(frame)
        assert [i["track_id"] for i in line["instances"]] == sorted(masks)
        for instance in line["instances"]:
            mask = decode_mask(instance["segmentation"])
            assert (mask == masks[instance["track_id"]]).all()


def test_label_pictures_show_the_smallest_mask_at_every_pixel(run: Path, found: Found) -> None:
    length = found.meta["length"]
    assert len(list((run / "davis").iterdir())) == length
    for frame in range(length):
        labels = ids_in(run / "davis" / f"{frame:05}.png")
        masks = found.masks_on(frame)
        for y, x in np.ndindex(labels.shape):
            here = [id_ for id_, mask in masks.items() if mask[y, x]]
            least = min((masks[id_].sum() for id_ in here), default=0)
            assert labels[y, x] in ({i for i in here if masks[i].sum() == least} or {0})


def test_mots_text_has_the_same_pixels_by_class(run: Path, found: Found) -> None:
    meta = found.meta
    ids = np.zeros(len(found.tracks) + 1, int)
    for track in found.tracks:
        ids[track["track_id"]] = track["category_id"] * PER_CLASS + track["track_id"]

    def fail(place: Place, what: str) -> None:
        raise AssertionError(f"{place}: {what}")

    shape = (meta["height"], meta["width"])
    seen = {frame: np.zeros(shape, int) for frame in range(meta["length"])}
    for label in labels_in_text(run / "mots.txt", fail):
        mask = decode_mask(label.rle)
        assert not seen[label.frame][mask].any()
        seen[label.frame][mask] = label.id
    for frame, labels in seen.items():
        pictured = ids_in(run / "davis" / f"{frame:05}.png")
        assert (labels == ids[pictured]).all()


def test_mots_classes_are_told_where_a_category_has_the_number_of_the_ignored(
    tmp_path: Path,
) -> None:
    names = tuple(f"class {n}" for n in range(1, 12))
    weights = save_untrained(tmp_path / "m.safetensors", names, num_queries=8)
    video = make_video(tmp_path / "one.mp4", 2)
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--save", "mots", "--no-overlay")
    assert vistool("predict", video, *options).exit_code == 0
    told = json.loads((tmp_path / "one" / "mots_categories.json").read_text())
    assert [category["name"] for category in told] == list(names)
    assert 10 not in {category["id"] for category in told}
    of_class = {category["name"]: category["id"] for category in told}
    tracks = Found(tmp_path / "one").tracks
    expected = {of_class[names[track["category_id"] - 1]] for track in tracks}
    lines = (tmp_path / "one" / "mots.txt").read_text().splitlines()
    found = {int(line.split()[1]) // PER_CLASS for line in lines}
    assert found
    assert found <= expected
    assert {int(line.split()[2]) for line in lines} == found


def test_cutouts_are_the_pixels_of_the_video_inside_the_masks(run: Path, found: Found) -> None:
    with open_video(run.parent / "one.mp4") as reader:
        images = [frame.image for frame in reader.frames()]
    count = 0
    for frame in range(found.meta["length"]):
        for id_, mask in found.masks_on(frame).items():
            count += 1
            path = run / "cutouts" / f"{id_:03}" / f"{frame + SKIPPED:05}.png"
            cut = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert cut is not None
            ys, xs = mask.nonzero()
            box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
            assert ((cut[..., 3] == 255) == mask[box]).all()
            assert (cut[..., 2::-1] == images[frame + SKIPPED][box]).all()
    assert len(list((run / "cutouts").glob("*/*.png"))) == count > 0


def test_a_run_without_them_leaves_none_of_an_earlier_one(tmp_path: Path, weights: Path) -> None:
    video = make_video(tmp_path / "one.mp4", 3)
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--exist-ok", "--no-overlay")
    everything = "csv,jsonl,mots,davis,cutouts"
    assert vistool("predict", video, *options, "--save", everything).exit_code == 0
    pictures = [*(tmp_path / "one").glob("davis/*"), *(tmp_path / "one").glob("cutouts/*/*")]
    assert pictures
    assert not list((tmp_path / "one").glob(".*"))
    assert vistool("predict", video, *options).exit_code == 0
    left = {path.name for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert left == {"results.json", "meta.json"}


def test_files_that_no_run_saved_stay(tmp_path: Path, weights: Path) -> None:
    video = make_video(tmp_path / "one.mp4", 2)
    own = [tmp_path / "one" / name for name in ("tracks.csv", "davis/00000.png", "mots.txt")]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--exist-ok", "--no-overlay")
    for _ in range(2):
        assert vistool("predict", video, *options, "--save", "jsonl").exit_code == 0
    assert [path.read_text() for path in own] == ["mine"] * 3


def test_what_a_format_has_no_room_for_costs_the_others_nothing(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vistool.engine.writers.MOST_OBJECTS", 1)
    video = make_video(tmp_path / "one.mp4", 2)
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--save", "davis,csv")
    done = vistool("predict", video, *options)
    assert done.exit_code == 1
    assert f"error: {video}: davis: " in done.stderr
    assert f"the results of all 2 frames are in {tmp_path / 'one'}\n" in done.stderr
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        *("results.json", "meta.json", "overlay.mp4", "tracks.csv"),
    }


def test_a_source_of_several_that_a_format_has_no_room_for_has_failed(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vistool.engine.writers.MOST_OBJECTS", 1)
    make_video(tmp_path / "one.mp4", 1)
    make_video(tmp_path / "two.mp4", 1)
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--save", "davis", "--no-overlay")
    done = vistool("predict", tmp_path / "*.mp4", *options)
    assert done.exit_code == 6
    assert "error: 2 of 2 sources failed: " in done.stderr
    for name in ("one", "two"):
        assert (tmp_path / name / "results.json").exists()


def test_what_else_lies_in_a_folder_of_pictures_stays_there(tmp_path: Path, weights: Path) -> None:
    video = make_video(tmp_path / "one.mp4", 2)
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--exist-ok", "--no-overlay")
    kinds = ("--save", "csv,davis,cutouts")
    assert vistool("predict", video, *options, *kinds).exit_code == 0
    run = tmp_path / "one"
    before = {path.relative_to(run) for path in run.rglob("*")}
    (track, *_) = (run / "cutouts").iterdir()
    own = [run / "davis" / ".DS_Store", track / "notes.txt", run / "cutouts" / "mine" / "a.txt"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    done = vistool("predict", video, *options, *kinds)
    assert done.exit_code == 0, done.stderr
    assert [path.read_text() for path in own] == ["mine"] * 3
    after = {path.relative_to(run) for path in run.rglob("*")}
    assert after - before == {path.relative_to(run) for path in [*own, own[2].parent]}
    assert before <= after


def test_one_output_that_cannot_be_written_costs_the_others_nothing(
    tmp_path: Path, weights: Path
) -> None:
    video = make_video(tmp_path / "one.mp4", 2)
    run = tmp_path / "one"
    (run / "tracks.csv").mkdir(parents=True)
    (run / "davis").write_text("a file")
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--exist-ok")
    done = vistool("predict", video, *options, "--save", "csv,davis,jsonl")
    assert done.exit_code == 1
    for kind, name in (("csv", "tracks.csv"), ("davis", "davis")):
        assert f"{kind}: {run / name}: " in done.stderr
    assert ".part" not in done.stderr
    assert {path.name for path in run.iterdir()} == {
        *("results.json", "meta.json", "overlay.mp4", "tracks.csv", "davis", "frames.jsonl"),
    }


def test_pictures_that_were_not_all_written_are_not_there(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def fails_late(path: Path, *_: object) -> None:
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("vistool.engine.writers.write_label_map", fails_late)
    video = make_video(tmp_path / "one.mp4", 3)
    done = vistool("predict", video, "-m", weights, "-o", tmp_path, "--save", "davis,csv")
    assert done.exit_code == 130
    left = {path.name for path in (tmp_path / "one").iterdir()}
    assert left == {"results.json", "meta.json"}


def test_a_damaged_video_has_its_tables_as_far_as_it_goes(tmp_path: Path, weights: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        picture = np.full((64, 96, 3), 40 * number, np.uint8)
        cv2.imwrite(str(frames / f"{number}.png"), picture)
    (frames / "3.png").write_bytes(b"no picture")
    options = ("-m", weights, "-o", tmp_path / "runs", "--conf", "0", "--save", "jsonl,cutouts")
    assert vistool("predict", frames, *options, "--clip-length", "1").exit_code == 3
    run = tmp_path / "runs" / "frames"
    meta = read_meta(run / "meta.json")
    assert not meta.complete
    assert len((run / "frames.jsonl").read_text().splitlines()) == meta.length > 0
    assert not (run / "cutouts").exists()


def test_a_stream_goes_on_after_a_source_that_fails(tmp_path: Path, weights: Path) -> None:
    good = make_video(tmp_path / "good.mp4", 2)
    (tmp_path / "bad.mp4").write_text("no video")
    done = vistool("predict", tmp_path / "bad.mp4", good, "-m", weights, "-o", "-")
    assert done.exit_code == 6
    assert "1 of 2 sources failed" in done.stderr
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0, 1]


def test_a_stream_has_the_masks_of_the_files(run: Path, weights: Path, found: Found) -> None:
    video = run.parent / "one.mp4"
    options = ("--conf", "0", "--start", str(SKIPPED / 10), "-m", weights)
    streamed = vistool("predict", video, "-o", "-", *options)
    assert streamed.exit_code == 0, streamed.stderr
    lines = [json.loads(line) for line in streamed.stdout.splitlines()]
    assert {line.pop("source") for line in lines} == {str(video)}
    saved = [json.loads(line) for line in (run / "frames.jsonl").read_text().splitlines()]
    assert len(lines) == len(saved)
    for line, last in zip(lines, saved, strict=True):
        assert line.keys() == last.keys()
        assert (line["index"], line["time"], line["seen"]) == (
            *(last["index"], last["time"], last["seen"]),
        )
        assert [i.keys() for i in line["instances"]] == [i.keys() for i in last["instances"]]
        # Reported are all tracks at last, so that the ids differ at most.
        masks = [[i["segmentation"]["counts"] for i in x["instances"]] for x in (line, last)]
        assert sorted(masks[0]) == sorted(masks[1])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--save", "csv,tiff"), "tiff: no such output"),
        (("--save", "csv", "-o", "-"), "-o - writes no files"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    tmp_path: Path,
    weights: Path,
    options: tuple[str, ...],
    told: str,
) -> None:
    video = make_video(tmp_path / "one.mp4", 1)
    done = vistool("predict", video, "-m", weights, *options)
    assert done.exit_code == 2
    assert told in done.stderr
