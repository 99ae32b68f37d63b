"""Faults that no other test noticed when they were put into the code on purpose."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from tests.conftest import MakeVideo, draw_shapes
from tests.made_data import make_pictures
from tests.made_eval import block, make_set
from tests.made_training import settings
from tests.processes import PATIENCE, Start
from tests.test_predict_command import make_video as make_short_video
from tests.test_predict_command import vistool
from tests.test_report import report, written
from tests.untrained import save_untrained
from vistool.annotations.alignment import MIN_MASKS, REACH, FitSum
from vistool.annotations.mots import LONGEST, read_mots
from vistool.annotations.predicted_masks import with_predicted_lengths
from vistool.annotations.problems import Problem
from vistool.annotations.results_check import check_results
from vistool.config import VisTRPipeline
from vistool.data.warping import project, shrunk
from vistool.engine.distributed import Processes
from vistool.engine.evaluate import run_model
from vistool.engine.predict.video import predict_opened
from vistool.engine.train.checkpoint import CHECKPOINT, PREVIOUS
from vistool.engine.train.train import train
from vistool.errors import DataError
from vistool.formats.video.reader import open_video
from vistool.ops.boxes import box_giou, box_iou


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was never trained."""
    path = tmp_path_factory.mktemp("weights") / "made.safetensors"
    return save_untrained(path, ("cat", "dog"), num_queries=4)


# Videos


def test_a_clock_that_stands_still_goes_on_at_the_nominal_rate(make_video: MakeVideo) -> None:
    images, _ = draw_shapes(8, 48, 64)
    still = "setts=pts=if(between(N\\,3\\,4)\\,PREV_OUTPTS\\,PTS):"
    still += "dts=if(between(N\\,3\\,4)\\,PREV_OUTDTS\\,DTS)"
    lossless = ("-c:v", "libx264rgb", "-qp", "0", "-bf", "0", "-bsf:v", still)
    path = make_video("still.mkv", images, fps=10, options=lossless)
    with open_video(path) as video:
        frames = list(video.frames())
    # the stamps of frames 2 to 4 are all 0.2; those of 5 and 6, 0.5 and 0.6, come a frame later
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-5)
    assert all((frame.image == images[frame.index]).all() for frame in frames)


NONE = "\N{EN DASH}"  # in a table
CTRL_C = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from vistool.formats.video.reader import open_video
from vistool.ops.boxes import box_giou, box_iou
from vistool.formats.video.writer import VideoWriter
signal.signal(signal.SIGINT, lambda *_: None)
def interrupt():
    os.killpg(0, signal.SIGINT)
    time.sleep(1)  # ffmpeg looks for signals every half second
source, target = map(Path, sys.argv[1:])
"""
READ = """
with open_video(source) as video:
    for frame in video.frames():
        if frame.index == 0:
            interrupt()
print(frame.index + 1)
"""
WRITE = """
from vistool.structures import Size
with VideoWriter(target, Size(240, 320), fps=10) as writer:
    for t in range(80):
        writer.write(np.full((240, 320, 3), t, np.uint8), t / 10)
        if t == 40:
            interrupt()
with open_video(target) as video:
    print(sum(1 for _ in video.frames()))
"""


@pytest.mark.parametrize("work", [READ, WRITE])
def test_ctrl_c_does_not_end_a_video_before_its_program(
    work: str, make_video: MakeVideo, start: Start, tmp_path: Path
) -> None:
    """The terminal sends it to all of the group, and ffmpeg would take it for the end."""
    source = make_video("source.mp4", draw_shapes(80, 240, 320)[0])
    process = start("-c", CTRL_C + work, source, tmp_path / "out.mp4")
    out, complaint = process.communicate(timeout=PATIENCE)
    assert (out, complaint) == ("80\n", "")


# Results


def test_a_zip_that_would_unpack_to_a_terabyte_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("results.json", "[]")
        archive.infolist()[0].file_size = 1 << 40  # as the directory at its end then says
    path = tmp_path / "out.zip"
    path.write_bytes(data.getvalue())
    with pytest.raises(DataError, match=f"results.json has {1 << 40} bytes when unpacked"):
        check_results(path)


def test_a_link_to_a_folder_of_pictures_is_not_followed_to_empty_it(
    tmp_path: Path, weights: Path
) -> None:
    video = make_short_video(tmp_path / "one.mp4", 2)
    options = ("-m", weights, "-o", tmp_path, "--conf", "0", "--exist-ok", "--no-overlay")
    assert vistool("predict", video, *options, "--save", "davis").exit_code == 0
    archive = (tmp_path / "one" / "davis").rename(tmp_path / "archive")
    (tmp_path / "one" / "davis").symlink_to(archive)
    before = {path.name: path.read_bytes() for path in archive.iterdir()}
    done = vistool("predict", video, *options, "--save", "csv")
    assert done.exit_code == 0, done.stderr
    assert {path.name: path.read_bytes() for path in archive.iterdir()} == before
    assert len(before) == 2


# MOTS


def mots_line(frame: int) -> str:
    return f"{frame} 1001 1 48 64 {block(2, 4)['counts']}\n"


def test_a_label_beyond_the_longest_video_is_taken_for_damage(tmp_path: Path) -> None:
    labels = tmp_path / "instances_txt" / "v1.txt"
    labels.parent.mkdir()
    labels.write_text(mots_line(0) + mots_line(LONGEST - 1))
    (video,) = read_mots(tmp_path, masks=False).videos
    assert video.length == LONGEST
    labels.write_text(mots_line(0) + mots_line(LONGEST))
    problems: list[Problem] = []
    assert read_mots(tmp_path, masks=False, on_problem=problems.append).videos == ()
    assert [problem.kind for problem in problems] == ["empty"]
    assert f"labels up to {LONGEST}" in problems[0].what


def test_a_prediction_beyond_the_longest_video_does_not_make_a_set_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vistool.annotations.predicted_masks.LONGEST", 50)
    for name, last in (("truth", 3), ("near", 40), ("far", 4000)):
        (tmp_path / name / "instances_txt").mkdir(parents=True)
        text = mots_line(0) + mots_line(last)
        (tmp_path / name / "instances_txt" / "v1.txt").write_text(text)
    truth = read_mots(tmp_path / "truth")
    for name, length in (("truth", 4), ("near", 41), ("far", 50)):
        longer = with_predicted_lengths(truth, tmp_path / name)
        assert longer.videos[0].length == length
        assert len(longer.tracks[0].segmentations) == length


# A model over a set


def test_videos_whose_result_is_incomplete_or_too_short_are_run_again(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    truth = make_set(tmp_path / "data", frames=True)
    assert vistool("eval", truth, "-m", weights).exit_code == 0
    (videos,) = tmp_path.glob("runs/eval/*/videos")
    shutil.copy(videos / "20" / "meta.json", videos / "30")  # 3 frames of 5
    meta = videos / "20" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"complete": False}))
    ran: list[str] = []
    real = predict_opened

    def noted(job: Any, reader: Any, folder: Path, *rest: Any) -> Any:
        ran.append(folder.name)
        return real(job, reader, folder, *rest)

    monkeypatch.setattr(run_model, "predict_opened", noted)
    assert vistool("eval", truth, "-m", weights).exit_code == 0
    assert ran == ["20", "30"]
    assert vistool("eval", truth, "-m", weights).exit_code == 0
    assert ran == ["20", "30"]  # now they are whole


def test_where_a_process_dies_the_begun_videos_are_taken_away(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is done, one has failed, one is in the middle when the process that runs it dies."""
    monkeypatch.chdir(tmp_path)
    truth = make_set(tmp_path / "data", lengths=(5, 4, 3), frames=True)

    class DyingPool:
        def __init__(self, *_: object, **__: object) -> None:
            self._left = {"10": "meta.json", "20": "error.txt", "30": ".masks"}

        def submit(self, _: object, place: Any, video: Any) -> Future[None]:
            future: Future[None] = Future()
            folder = place.folder / "videos" / str(video.id)
            folder.mkdir(parents=True)
            (folder / self._left[folder.name]).write_text("left")
            if folder.name == "30":
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result(None)
            return future

        def shutdown(self, **_: object) -> None:
            pass

    monkeypatch.setattr(run_model, "ProcessPoolExecutor", DyingPool)
    done = vistool("eval", truth, "-m", weights, "--workers", "2")
    assert done.exit_code == 1
    assert "a process that ran the model has died" in done.stderr
    (videos,) = tmp_path.glob("runs/eval/*/videos")
    assert sorted(path.name for path in videos.iterdir()) == ["10", "20"]


# Training


def test_a_skipped_step_leaves_the_averaged_weights_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 2)
    answers = iter([None, None, "dice"])
    monkeypatch.setattr("vistool.engine.train.train.broken_terms", lambda values: next(answers))
    run = tmp_path / "run"
    train(settings(tmp_path, steps=3, save_every=1, max_skipped=3), run)
    before, after = (torch.load(run / name, weights_only=True) for name in (PREVIOUS, CHECKPOINT))
    assert (before["step"], after["step"]) == (2, 3)
    for key, value in before["averaged"].items():
        torch.testing.assert_close(after["averaged"][key], value, rtol=0, atol=0)
    moved = [(before["averaged"][f"module.{k}"] != v).any() for k, v in after["model"].items()]
    assert any(moved)  # so that one more mean would be another


# Found by the sample of `benchmarks.mutants`


def test_where_masks_would_fit_only_a_little_better_nothing_is_said() -> None:
    """They are compared with the best place within a step of where they are, on either side."""
    for down, right in ((-1, 0), (0, -1), (1, 1), (0, 0)):
        for strength, is_shift in ((1.05, False), (1.2, True)):
            fit = np.zeros((2 * REACH + 1, 2 * REACH + 1))
            fit[REACH + down, REACH + right] = 1.0
            fit[REACH - 2, REACH + 5] = strength
            fits = FitSum()
            fits.add([fit] * MIN_MASKS)
            found = fits.shift(3)
            assert (found is not None) == is_shift
            if found is not None:
                assert (found.right, found.down) == (15, -6)
                assert found.stated_strength == pytest.approx(1.0)
                assert found.num_masks == MIN_MASKS


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.21])
@pytest.mark.parametrize("corner", [(), (7,), (0, 4)])  # left, top: 0 unless stated
def test_a_shrunk_picture_lies_where_the_whole_one_lay(
    scale: float, corner: tuple[int, ...]
) -> None:
    part = shrunk(np.zeros((30, 50), np.uint8), scale, *corner)
    height, width = part.pixels.shape
    assert (height, width) == (round(30 * scale), round(50 * scale))
    edges = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])  # pixels lie around whole numbers
    expected = np.array([[-0.5, -0.5], [49.5, 29.5]]) + [*corner, 0, 0][:2]
    np.testing.assert_allclose(project(edges, part.place), expected)


def test_overlaps_of_boxes_stay_in_their_range_where_boxes_are_empty() -> None:
    sides = [0.0, 1e-5, 0.3]
    boxes = torch.tensor([(x, 0.5, w, h) for x in (0.2, 0.5) for w in sides for h in sides])
    first, second = boxes[:, None].requires_grad_(), boxes[None]
    giou = box_giou(first, second)
    assert (giou.abs() <= 1 + 1e-6).all()
    assert ((box_iou(first, second) >= 0) & (box_iou(first, second) <= 1 + 1e-6)).all()
    giou.sum().backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_the_page_says_what_each_wrong_prediction_was_meant_for(tmp_path: Path) -> None:
    page = written(tmp_path / "report.html", report(name="a"))
    rows = re.findall(r"<tr>(.*?)</tr>", page[page.index('<section id="false"') :], re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(?:<a[^>]*>)?([^<]*)", row) for row in rows[1:]]
    assert cells[:3] == [
        ["a 1", "1", "a", "0.800", "class", "track 1", "1.000"],
        ["a 2", "0", "a", "0.700", "temporal extent", "track 0", "0.375"],  # 3 of 8 frames
        ["a 2", "1", "other", "0.600", "background", NONE, NONE],
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_agree_and_end_together(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from one of two, whose calls of torch are answered here; slow tests start both."""
    met: list[DataError | None] = [None, None]
    left: list[bool] = []

    def gather(everyone: list[Any], _: object) -> None:
        everyone[:] = met

    def broadcast(values: list[Any]) -> None:
        values[:] = ["the first one's"] if rank else values

    monkeypatch.setattr(distributed, "all_gather_object", gather)
    monkeypatch.setattr(distributed, "broadcast_object_list", broadcast)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: left.append(True))
    processes = Processes(torch.device("cpu"), rank, 2)
    assert processes.agree(lambda: "the first one's") == "the first one's"
    assert processes.together(lambda: rank) == rank
    assert processes.mine("abcde") == ("bd" if rank else "ace")
    assert not left
    met[1] = DataError("of the second")
    with pytest.raises((DataError, SystemExit)) as ended:
        processes.together(lambda: rank)
    assert left == [True]
    if rank == 0:
        assert ended.value is met[1]  # told once, by the first
    else:
        assert isinstance(ended.value, SystemExit)
        assert ended.value.code == DataError.exit_code


def test_the_sizes_of_vistrs_training_are_those_of_its_code() -> None:
    """The numbers of `make_coco_transforms` in its datasets/ytvos.py, for R-50."""
    pipeline = VisTRPipeline()
    scales = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768)
    assert (pipeline.first_short_sides, pipeline.first_long_side) == (scales, 800)
    assert (pipeline.crop_short_sides, pipeline.crop_sides) == ((400, 500, 600), (384, 600))
    assert (pipeline.short_side, pipeline.long_side) == (300, 540)
