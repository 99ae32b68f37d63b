"""`vistool eval -m`: a model is run on a data set, resumably, and scored by classes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import vistool as vis
from tests.made_eval import make_set, truth_as_results, write
from tests.processes import PATIENCE, Start, wait_until
from tests.untrained import save_untrained
from vistool.cli.app import app
from vistool.config import IFCConfig
from vistool.engine.evaluate import run_model as predict_dataset
from vistool.engine.evaluate.predictions import MatchedClass, Run
from vistool.engine.evaluate.scored_set import matched_classes
from vistool.engine.predict import video as predict
from vistool.errors import DataError
from vistool.formats.results.files import Category, iterate_results, read_results
from vistool.models.checkpoints.files import WeightsHeader
from vistool.structures import TrackSegmentation


def vistool(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was never trained."""
    path = tmp_path_factory.mktemp("weights") / "made.safetensors"
    return save_untrained(path, ("cat", "dog"), num_queries=4)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are saved below the working directory."""
    monkeypatch.chdir(tmp_path)


RUN = Path("runs/eval/data-set-made")


# Running


def test_a_run_writes_predictions_with_the_sets_ids_and_the_scores(
    tmp_path: Path, weights: Path
) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    done = vistool(truth, "-m", weights, "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["counts"]["videos"] == 3
    assert content["inputs"]["model"]["name"] == "made"
    results = read_results(RUN / "results.json")
    assert {r["video_id"] for r in results} == {10, 20, 30}
    assert {r["category_id"] for r in results} <= {3, 7}
    assert {(r["video_id"], len(r["segmentations"])) for r in results} == {
        (10, 4),
        (20, 3),
        (30, 5),
    }
    assert json.loads((RUN / "metrics.json").read_text()) == content
    again = vistool(truth, "-p", RUN, "--json")  # the folder may be given instead of the file
    assert json.loads(again.stdout)["ytvis"] == content["ytvis"]


def test_python_runs_a_model_and_resumes(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    found = vis.evaluate(truth, model=vis.load_model(str(weights)))
    assert found.failed == {}
    assert not (RUN / "metrics.json").exists()  # Python writes no report by itself
    monkeypatch.setattr(predict_dataset, "predict_opened", None)  # a second run would fail
    assert vis.evaluate(truth, model=weights).ytvis == found.ytvis
    printed = json.loads(vistool(truth, "-m", weights, "--json").stdout)
    assert printed["ytvis"]["AP"] == found.ytvis.AP


def test_videos_that_are_done_are_not_run_again(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    ran: list[str] = []
    real = predict.predict_opened

    def counted(job: Any, reader: Any, folder: Path, *rest: Any) -> Any:
        ran.append(folder.name)
        if ran == ["10", "20"]:
            raise KeyboardInterrupt
        return real(job, reader, folder, *rest)

    monkeypatch.setattr(predict_dataset, "predict_opened", counted)
    assert vistool(truth, "-m", weights).exit_code == 130
    assert vistool(truth, "-m", weights).exit_code == 0
    assert ran == ["10", "20", "20", "30"]
    assert vistool(truth, "-m", weights).exit_code == 0
    assert len(ran) == 4
    vistool(truth, "-m", weights, "--size", "48")  # another run gets another folder
    assert len(ran) == 7
    assert (tmp_path / "runs" / "eval" / "data-set-made-2").is_dir()
    monkeypatch.setattr(predict_dataset, "version", lambda name: "another")  # so does another tool
    assert vistool(truth, "-m", weights).exit_code == 0
    assert len(ran) == 10


def test_a_failing_video_does_not_stop_the_others(tmp_path: Path, weights: Path) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    picture = tmp_path / "data" / "v2" / "001.png"
    whole = picture.read_bytes()
    picture.write_bytes(b"not a picture")
    done = vistool(truth, "-m", weights, "--json")
    assert done.exit_code == 6
    assert "v2" in done.stderr
    assert "001.png: damaged" in done.stderr
    content = json.loads(done.stdout)
    assert content["counts"]["videos"] == 2
    assert list(content["inputs"]["failed_videos"]) == ["20"]
    saved = vistool(truth, "-p", RUN, "--json")  # the saved predictions leave it out, too
    assert saved.exit_code == 6
    assert json.loads(saved.stdout)["ytvis"] == content["ytvis"]
    compared = vistool(truth, "--compare", RUN, RUN / "results.json", "--json")
    assert json.loads(compared.stdout)["videos"] == 2
    picture.write_bytes(whole)
    second = vistool(truth, "-m", weights, "--json")
    assert second.exit_code == 0, second.stderr
    assert json.loads(second.stdout)["counts"]["videos"] == 3


def test_scores_at_another_confidence_do_not_replace_those_of_the_run(
    tmp_path: Path, weights: Path
) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    assert vistool(truth, "-m", weights).exit_code == 0
    before = {name: (RUN / name).read_bytes() for name in ("metrics.json", "report.html")}
    assert vistool(truth, "-m", weights, "--conf", "0.4").exit_code == 0
    assert vistool(truth, "-p", RUN, "--conf", "0.3", "-o", "other").exit_code == 0
    assert {name: (RUN / name).read_bytes() for name in before} == before
    for path, conf in ((RUN / "conf-0.4", 0.4), (Path("other/data-set-made"), 0.3)):
        content = json.loads((path / "metrics.json").read_text())
        assert content["inputs"]["predictions"]["conf"] == conf


def test_frames_of_another_size_than_the_set_says_are_refused(
    tmp_path: Path, weights: Path
) -> None:
    truth = make_set(tmp_path / "data", lengths=(2,), frames=True)
    content = json.loads(truth.read_text())
    content["videos"][0].update(width=40, height=30)
    done = vistool(write(truth, {**content, "annotations": []}), "-m", weights)
    assert done.exit_code == 3
    assert "none of the 1 videos could be run" in done.stderr
    assert "64x48 pixels, the data set says 40x30" in done.stderr


def test_frames_may_lie_anywhere(tmp_path: Path, weights: Path) -> None:
    truth = make_set(tmp_path / "data", lengths=(2,), frames=True)
    (tmp_path / "labels").mkdir()
    away = truth.rename(tmp_path / "labels" / "set.json")
    lost = vistool(away, "-m", weights)
    assert lost.exit_code == 3
    assert "--frames" in lost.stderr
    found = vistool(away, "-m", weights, "--frames", tmp_path / "data")
    assert found.exit_code == 0, found.stderr


def test_a_set_that_names_no_frames_cannot_be_run(tmp_path: Path, weights: Path) -> None:
    truth = make_set(tmp_path / "data")
    content = json.loads(truth.read_text())
    for video in content["videos"]:
        del video["file_names"]
    done = vistool(write(truth, content), "-m", weights)
    assert done.exit_code == 3
    assert "--predictions" in done.stderr


def test_a_test_set_is_run_and_packed_for_the_server(tmp_path: Path, weights: Path) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    content = json.loads(truth.read_text())
    test_set = write(truth, {**content, "annotations": None})
    done = vistool(test_set, "-m", weights, "--submission", "out.zip")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out.zip\n"
    content = json.loads(vistool(make_set(tmp_path / "data"), "-p", "out.zip", "--json").stdout)
    assert content["counts"]["videos"] == 3


def test_a_davis_folder_is_run_whatever_the_models_classes(tmp_path: Path, weights: Path) -> None:
    source = make_set(tmp_path / "data", lengths=(2, 2), frames=True)
    CliRunner().invoke(app, ["data", "convert", str(source), "--to", "davis", "-o", "D"])
    done = vistool("D", "-m", weights, "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["davis"]["J_mean"] >= 0
    assert [row["name"] for row in content["categories"]] == ["object"]
    assert not content["inputs"]["model"]["multi_class"]
    assert read_results(Path("runs/eval/D-made/results.json"))


@pytest.mark.slow
def test_several_processes_give_the_results_of_one(tmp_path: Path, weights: Path) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each worker: sums of float32 depend on the number of threads
    try:
        alone = json.loads(vistool(truth, "-m", weights, "--json", "-o", "one").stdout)
    finally:
        torch.set_num_threads(threads)
    together = vistool(truth, "-m", weights, "--json", "-o", "two", "--workers", "2")
    assert together.exit_code == 0, together.stderr
    assert json.loads(together.stdout)["ytvis"] == alone["ytvis"]
    one, two = (Path(d) / "data-set-made" / "results.json" for d in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_processes_under_torchrun_share_the_videos(tmp_path: Path, weights: Path) -> None:
    truth = make_set(tmp_path / "data", frames=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--standalone", "-m", "vistool", "eval", str(truth), "-m", str(weights), "--json"]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=PATIENCE,
    )
    assert json.loads(run.stdout)["counts"]["videos"] == 3  # one of them prints
    assert len(list((tmp_path / RUN / "videos").iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_running_processes_keeps_only_complete_videos(
    tmp_path: Path, weights: Path, start: Start, number: signal.Signals
) -> None:
    truth = make_set(tmp_path / "data", lengths=(3, *(30,) * 5), frames=True)
    process = start("-m", "vistool", "eval", truth, "-m", weights, "--workers", "2")
    done = tmp_path / RUN / "videos"
    wait_until(lambda: list(done.glob("*/meta.json")), process)
    os.killpg(process.pid, number)
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert complaint.splitlines()[-1] == "interrupted"
    assert "Traceback" not in complaint
    finished = {path.parent.name for path in done.glob("*/meta.json")}
    assert finished
    assert {path.name for path in done.iterdir()} == finished
    again = vistool(truth, "-m", weights, "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["counts"]["videos"] == 6


@pytest.mark.slow
def test_a_dead_process_is_reported_in_one_line_and_complete_videos_are_kept(
    tmp_path: Path, weights: Path, start: Start
) -> None:
    truth = make_set(tmp_path / "data", lengths=(3, *(30,) * 5), frames=True)
    process = start("-m", "vistool", "eval", truth, "-m", weights, "--workers", "2")
    done = tmp_path / RUN / "videos"
    wait_until(lambda: list(done.glob("*/meta.json")), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "error: a process that ran the model has died\nhint: " in complaint
    assert "Traceback" not in complaint
    assert list(done.glob("*/meta.json"))


def test_a_repeated_result_is_written_once(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two queries may predict exactly the same; a server would refuse that."""
    truth = make_set(tmp_path / "data", lengths=(2,), frames=True)
    real = iterate_results

    def twice(path: Path) -> Iterator[TrackSegmentation]:
        for result in real(path):
            yield result
            yield TrackSegmentation(**result)

    before = vistool(truth, "-m", weights, "--json")
    monkeypatch.setattr(predict_dataset, "iterate_results", twice)
    after = vistool(truth, "-m", weights, "--json")
    assert after.exit_code == 0, after.stderr
    counts = [json.loads(done.stdout)["counts"]["predicted_tracks"] for done in (before, after)]
    assert counts[0] == counts[1] > 0


# Classes


def header(names: tuple[str, ...], trained: dict[str, list[str]] | None = None) -> WeightsHeader:
    training = {"training": json.dumps({"classes": trained, "steps": 3})} if trained else {}
    return WeightsHeader(Path("m.safetensors"), IFCConfig(class_names=names), training)


def categories(*names: str) -> list[Category]:
    return [Category(id=10 + i, name=name) for i, name in enumerate(names)]


def test_classes_match_categories_by_name_however_it_is_spelled() -> None:
    matched = matched_classes(header(("Giant_Panda", "ox")), categories("cat", "giant panda"))
    assert [(m.name, m.category_ids) for m in matched] == [("Giant_Panda", (11,)), ("ox", ())]


def test_a_merged_class_stands_for_the_categories_it_was_trained_on() -> None:
    trained = {"hoofed": ["horse", "cow"], "cat": ["cat"]}
    matched = matched_classes(
        header(("hoofed", "cat"), trained), categories("cow", "cat", "horse", "dog")
    )
    assert [m.category_ids for m in matched] == [(10, 12), (11,)]
    assert matched[0].target == 10


def test_where_objects_have_no_category_every_class_stands_for_them() -> None:
    matched = matched_classes(header(("ox", "cat")), categories("object"), class_agnostic=True)
    assert [m.category_ids for m in matched] == [(10,), (10,)]


@given(st.lists(st.sampled_from(["car", "Car", "CAR", "race car", "race_car"]), min_size=1))
def test_a_model_of_a_sets_own_classes_is_scored_on_the_categories_it_was_trained_on(
    names: list[str],
) -> None:
    """Categories with the same name, which training merges; no others, however similar."""
    classes = dict.fromkeys(names)
    matched = matched_classes(
        header(tuple(classes), {name: [name] for name in classes}), categories(*names)
    )
    trained = {name: tuple(10 + i for i, n in enumerate(names) if n == name) for name in classes}
    assert {m.name: m.category_ids for m in matched} == trained


def test_a_similar_name_is_matched_if_the_exact_one_is_missing() -> None:
    matched = matched_classes(header(("car", "Bus")), categories("Car", "car", "BUS", "bus"))
    assert [m.category_ids for m in matched] == [(11,), (12, 13)]


def test_classes_that_match_nothing_or_the_same_are_refused() -> None:
    with pytest.raises(DataError, match="none of the model's classes is a category") as caught:
        matched_classes(header(("ox",)), categories("cat", "dog"))
    assert caught.value.hint == "categories of the set: cat, dog"
    trained = {"pet": ["cat"], "cat": ["cat"]}
    with pytest.raises(DataError, match="'pet' and 'cat' both stand for category 10"):
        matched_classes(header(("pet", "cat"), trained), categories("cat"))


def test_merged_categories_are_scored_as_one_and_others_are_left_out(tmp_path: Path) -> None:
    """A run folder lists the categories of its classes, so the scores are those of the run."""
    path = make_set(tmp_path / "data")
    content = json.loads(path.read_text())
    content["categories"] += [{"id": 9, "name": "wolf"}, {"id": 2, "name": "axe"}]
    content["annotations"][1]["category_id"] = 9
    content["annotations"][3]["category_id"] = 2
    truth = write(path, content)
    results = truth_as_results(truth)
    for result in results:
        result["category_id"] = {3: 3, 7: 7, 9: 7, 2: 3}[result["category_id"]]
    folder = tmp_path / "run"
    write(folder / "results.json", results)
    plain = json.loads(vistool(truth, "-p", folder, "--json").stdout)
    assert plain["counts"]["categories"] == 4
    run = Run(
        data=plain["inputs"]["dataset"]["sha256"],
        model="made",
        sha256="",
        settings={},
        multi_class=False,
        classes=(MatchedClass("cat", 1, (3,)), MatchedClass("canine", 2, (7, 9))),
    )
    (folder / "run.json").write_bytes(msgspec.json.encode(run))
    found = json.loads(vistool(truth, "-p", folder, "--json").stdout)
    assert [(row["name"], row["truth"]) for row in found["categories"]] == [
        ("cat", 3),
        ("canine", 2),
    ]
    assert found["labels"]["merged_categories"] == {"canine": ["dog", "wolf"]}
    assert found["labels"]["unscored_categories"] == {"axe": 1}
    assert found["categories"][1]["AP"] == 1
    alone = write(tmp_path / "alone.json", results)
    refused = vistool(truth, "--compare", folder, alone)
    assert refused.exit_code == 3
    assert "results.json is scored on cat, canine; " in refused.stderr
    assert "alone.json on cat, dog, wolf, axe" in refused.stderr
    write(truth, {**content, "info": "another state of the set"})
    done = vistool(truth, "-p", folder, "--json")
    assert json.loads(done.stdout)["counts"]["categories"] == 4
    assert "different version of the data set" in done.stderr
