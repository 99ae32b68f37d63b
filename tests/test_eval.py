"""`vistool eval` from the command line and Python: scores, files, and messages on bad input."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import vistool as vis
from tests.made_eval import HEIGHT, WIDTH, block, make_set, moving, truth_as_results, write
from tests.recorded import recorded_json
from vistool.cli.app import app

TWELVE = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def vistool(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def scored(*arguments: str | Path) -> dict[str, Any]:
    """The object that `--json` prints; stdout has nothing else."""
    done = vistool(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are saved below the working directory."""
    monkeypatch.chdir(tmp_path)


# The numbers


@pytest.mark.parity
@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3"])
def test_the_command_prints_the_evaluators_recorded_numbers(case: str, tmp_path: Path) -> None:
    content = recorded_json(f"ytvis_eval/{case}")
    truth = write(tmp_path / "gt.json", content["truth"])
    found = scored(truth, "-p", write(tmp_path / "pred.json", content["predictions"]))
    assert list(found["ytvis"]) == TWELVE
    assert found["ytvis"] == pytest.approx(content["summary"], abs=1e-9)
    for row in found["categories"]:
        expected = content["by_category"].get(str(row["id"]), {})
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_the_labels_score_one_by_every_measure(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    found = scored(truth, "-p", write(tmp_path / "p.json", truth_as_results(truth)))
    assert [found["ytvis"][name] for name in ("AP", "AP75", "AR1", "APs")] == [1, 1, 1, 1]
    assert found["ytvis"]["APl"] == -1
    assert list(found["hota"]) == ["HOTA", "DetA", "AssA", "LocA"]
    assert found["hota"] == pytest.approx(dict.fromkeys(found["hota"], 1))
    assert (found["davis"]["J_mean"], found["davis"]["F_mean"]) == (1, 1)
    assert (found["identity"]["IDF1"], found["identity"]["switches"]) == (1, 0)
    counts = ("videos", "frames", "categories", "truth_tracks", "predicted_tracks")
    assert [found["counts"][name] for name in counts] == [3, 12, 2, 6, 6]
    assert len(found["inputs"]["dataset"]["sha256"]) == 64
    assert found["seconds"]["total"] > 0


def test_python_gives_the_scores_of_the_command(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = write(tmp_path / "p.json", truth_as_results(truth)[1:])
    found, printed = vis.evaluate(str(truth), results), scored(truth, "-p", results)
    assert {**json.loads(json.dumps(found.as_json())), "seconds": 0} == {**printed, "seconds": 0}
    missed = {str(kind.kind): kind.count for kind in found.diagnosis.breakdown.kinds}["missed"]
    assert missed == 1
    assert printed["ytvis"]["AP"] == found.ytvis.AP
    assert found.hota.AssA == printed["hota"]["AssA"]
    assert printed["identity"]["IDF1"] == found.identity.IDF1
    assert found.davis
    assert found.davis.JF_mean == printed["davis"]["J&F_mean"]
    hota = (1 + (8 / 12) ** 0.5) / 2  # cats are predicted on 8 of 12 frames
    assert repr(found) == (
        f"<Evaluation: 3 videos, 5 tracks, AP {found.ytvis.AP:.3f}, HOTA {hota:.3f}>"
    )


def test_python_writes_the_report_of_the_command(tmp_path: Path) -> None:
    truth = make_set(tmp_path / "data")
    results = write(tmp_path / "p.json", truth_as_results(truth))
    assert vistool(truth, "-p", results, "-o", tmp_path / "runs").exit_code == 0
    found = vis.evaluate(truth, predictions=results)
    page = found.report(tmp_path / "mine")
    assert page == tmp_path / "mine" / "report.html"
    theirs = tmp_path / "runs" / "data-set-p"
    files = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    assert files == sorted(
        p.relative_to(page.parent) for p in page.parent.rglob("*") if p.is_file()
    )
    for name in files:
        if name.name != "metrics.json":  # it has times
            assert (page.parent / name).read_bytes() == (theirs / name).read_bytes(), name
    with pytest.raises(vis.VistoolError, match="exists already, and is not empty"):
        found.report(page.parent)
    with pytest.raises(vis.VistoolError, match="is a file"):
        found.report(results)
    assert found.report(str(page.parent), exist_ok=True) == page


def test_python_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = write(tmp_path / "p.json", spoilt(truth))
    with pytest.raises(vis.VistoolError, match="result 6, video 10, category 3: 3 masks"):
        vis.evaluate(truth, results)
    for saved, model in ((None, None), (results, "ifc-lite")):
        with pytest.raises(vis.VistoolError, match="either predictions or a model"):
            vis.evaluate(truth, saved, model=model)


def test_no_predictions_at_all_score_zero(tmp_path: Path) -> None:
    found = scored(make_set(tmp_path), "-p", write(tmp_path / "p.json", []))
    assert (found["ytvis"]["AP"], found["hota"]["HOTA"], found["davis"]["J_mean"]) == (0, 0, 0)


def test_pictures_are_videos_of_one_frame(tmp_path: Path) -> None:
    picture = {"id": 5, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    annotation = {"id": 1, "image_id": 5, "category_id": 3, "iscrowd": 0}
    content = {
        "images": [picture],
        "annotations": [{**annotation, "segmentation": block(2, 2)}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    truth = write(tmp_path / "set.json", content)
    result = {"video_id": 5, "category_id": 3, "score": 0.5, "segmentations": [block(2, 2)]}
    assert scored(truth, "-p", write(tmp_path / "p.json", [result]))["ytvis"]["AP"] == 1
    coco = {"image_id": 5, "category_id": 3, "score": 0.5, "segmentation": block(2, 2)}
    assert scored(truth, "-p", write(tmp_path / "p.json", [coco]))["ytvis"]["AP"] == 1


def test_a_zip_scores_as_the_file_in_it(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = write(tmp_path / "results.json", truth_as_results(truth)[:4])
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.write(results, "results.json")
    inside, plain = (scored(truth, "-p", tmp_path / n) for n in ("out.zip", "results.json"))
    assert inside["ytvis"] == plain["ytvis"]
    assert plain["ytvis"]["AP"] == pytest.approx((2 / 3), abs=0.01)


def test_a_folder_means_the_annotation_file_in_it(tmp_path: Path) -> None:
    truth = make_set(tmp_path / "data")
    results = write(tmp_path / "p.json", truth_as_results(truth))
    assert scored(tmp_path / "data", "-p", results)["ytvis"]["AP"] == 1


def test_tracks_below_the_given_score_are_left_out(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    stray = {"video_id": 10, "category_id": 3, "score": 0.2, "segmentations": [block(2, 44)] * 4}
    results = write(tmp_path / "p.json", [stray, *truth_as_results(truth, 0.6)])
    every, sure = scored(truth, "-p", results), scored(truth, "-p", results, "--conf", "0.5")
    assert (every["ytvis"]["AP"], sure["ytvis"]["AP"]) == (1, 1)
    assert every["hota"]["DetA"] < 1
    assert sure["hota"]["DetA"] == pytest.approx(1)
    assert sure["inputs"]["predictions"]["conf"] == 0.5


# Labels that are not complete


def test_predictions_of_unlabelled_categories_are_not_scored(tmp_path: Path) -> None:
    stray = {"video_id": 10, "category_id": 3, "score": 0.95, "segmentations": [block(2, 44)] * 4}
    some: dict[str, Any] = {"exhaustive": False, "exhaustive_category_ids": [7]}
    for name, fields, unjudged in (("all", {}, 0), ("some", some, 1)):
        truth = make_set(tmp_path / name, **fields)
        results = write(tmp_path / f"{name}.json", [stray, *truth_as_results(truth)])
        found = scored(truth, "-p", results)
        assert found["labels"]["predictions_not_judged"] == unjudged
        assert (found["ytvis"]["AP"] == 1) == bool(unjudged)
        assert found["labels"]["partly_labelled_videos"] == 3 * unjudged


def test_predictions_in_a_crowd_of_a_picture_are_not_scored_however_small(
    tmp_path: Path,
) -> None:
    """The crowd is a box around objects without separate labels; one prediction is inside it."""
    region = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    cat = {"image_id": 5, "category_id": 3}
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [
            {"id": 1, **cat, "iscrowd": 0, "segmentation": block(2, 2)},
            {"id": 2, **cat, "iscrowd": 1, "segmentation": region},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    stray = {**cat, "score": 0.9, "segmentation": block(2, 44)}
    results = [{**cat, "score": 0.5, "segmentation": block(2, 2)}, stray]
    with_crowd = write(tmp_path / "crowd.json", content)
    found = scored(with_crowd, "-p", write(tmp_path / "p.json", results))
    assert found["ytvis"]["AP"] == 1
    assert found["hota"]["HOTA"] == 1
    assert found["labels"]["predictions_not_judged"] == 1
    content["annotations"].pop()
    without = write(tmp_path / "without.json", content)
    found = scored(without, "-p", write(tmp_path / "p.json", results))
    assert found["ytvis"]["AP"] == pytest.approx(0.5)


def test_predictions_on_an_object_without_a_category_are_not_scored(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    content = json.loads(path.read_text())
    content["categories"].append({"id": 1000, "name": "object"})
    content["annotations"][1]["category_id"] = 1000  # the dogs become objects of unknown category
    content["videos"][2] |= {"exhaustive": False, "exhaustive_category_ids": [3, 7]}
    truth = write(path, content)
    results = truth_as_results(truth)
    results[1]["category_id"] = 3
    found = scored(truth, "-p", write(tmp_path / "p.json", results))
    assert found["ytvis"]["AP"] == 1
    assert found["labels"]["unnamed_objects_ignored"] == 1
    assert found["labels"]["predictions_not_judged"] == 1
    assert found["davis"]["J_mean"] == 1  # J and F have no categories
    results[1]["category_id"] = 1000  # predictions of `object` make no difference
    found = scored(truth, "-p", write(tmp_path / "p.json", results))
    assert found["labels"]["unnamed_objects_ignored"] == 1


def test_the_category_object_is_like_any_other_on_a_completely_labelled_set(
    tmp_path: Path,
) -> None:
    path = make_set(tmp_path)
    content = json.loads(path.read_text())
    content["categories"].append({"id": 1000, "name": "object"})
    content["annotations"][1]["category_id"] = 1000
    truth = write(path, content)
    every = truth_as_results(truth)
    without = [result for result in every if result["category_id"] != 1000]
    found, missed = (
        scored(truth, "-p", write(tmp_path / f"{len(some)}.json", some))
        for some in (every, without)
    )
    assert found["ytvis"]["AP"] == 1
    assert found["counts"] | {"predicted_tracks": 5} == missed["counts"]
    assert missed["ytvis"]["AP"] == pytest.approx(2 / 3)  # one of three categories missed


# What is written and printed


def test_the_command_prints_a_table_and_writes_files(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = write(tmp_path / "mine.json", truth_as_results(truth))
    done = vistool(truth, "-p", results)
    assert done.exit_code == 0, done.stderr
    assert "3 videos, 12 frames, 6 labelled tracks, 6 predicted" in done.stdout
    assert "AP50" in done.stdout
    folder = tmp_path / "runs" / "eval" / f"{tmp_path.name}-set-mine"
    assert f"saved in {Path('runs/eval') / f'{tmp_path.name}-set-mine'}" in done.stderr
    assert json.loads((folder / "metrics.json").read_text())["ytvis"]["AP"] == 1
    with (folder / "categories.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], float(row["AP"])) for row in rows] == [("cat", 1.0), ("dog", 1.0)]
    assert {"report.html", "errors.csv", "figures"} <= {path.name for path in folder.iterdir()}
    vistool(truth, "-p", results, "--no-report")
    again = tmp_path / "runs" / "eval" / f"{tmp_path.name}-set-mine-2"
    assert {path.name for path in again.iterdir()} == {"metrics.json", "categories.csv"}


def test_json_of_saved_predictions_writes_files_only_with_an_output_folder(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = write(tmp_path / "mine.json", truth_as_results(truth))
    scored(truth, "-p", results)
    assert not (tmp_path / "runs").exists()
    scored(truth, "-p", results, "-o", tmp_path / "there", "--no-report")
    assert (tmp_path / "there" / f"{tmp_path.name}-set-mine" / "metrics.json").exists()


def test_scores_do_not_need_the_frames(tmp_path: Path) -> None:
    path = make_set(tmp_path / "data", frames=True)
    results = write(tmp_path / "mine.json", truth_as_results(path))
    content = json.loads(path.read_text())
    content["videos"][0]["file_names"][0] = "../../elsewhere.png"
    done = vistool(write(path, content), "-p", results)
    assert done.exit_code == 0, done.stderr
    assert list((tmp_path / "runs" / "eval").glob("*-set-mine/report.html"))


def test_a_name_from_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "\x1b[31mcat\n"
    results = write(tmp_path / "p.json", truth_as_results(path))
    done = vistool(write(path, content), "-p", results, "--no-report")
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "?[31mcat?" in done.stdout


# Bad input


def spoilt(path: Path) -> list[dict[str, Any]]:
    """Results with one fault of every kind."""
    good = truth_as_results(path)
    bad = [
        {**good[0], "segmentations": moving(2, 3)},
        {**good[1], "segmentations": [block(2, 2, size=(WIDTH, HEIGHT))] * 4},
        {**good[1], "segmentations": [{"size": [HEIGHT, WIDTH], "counts": "zz"}, None, None, None]},
        {**good[1], "segmentations": [{"size": [48, 64], "counts": [3072]}, None, None, None]},
        {**good[2], "video_id": 77},
        {**good[2], "category_id": 8},
        {**good[3], "score": float("nan")},
        good[4],
    ]
    return [*good, *bad]


def test_all_faults_are_listed_at_once_and_nothing_is_scored(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = write(tmp_path / "p.json", spoilt(truth))
    done = vistool(truth, "-p", results, "--json")
    assert done.exit_code == 3
    assert done.stdout == ""
    for words in (
        "result 6, video 10, category 3: 3 masks, its video has 4",
        "result 7, video 10, category 7, frame 0: a mask of size [64, 48], expected [48, 64]",
        "result 8, video 10, category 7, frame 0: malformed mask",
        "result 9, video 10, category 7, frame 0: uncompressed counts",
        "result 10, video 77",
        "result 11, video 20, category 8",
        "result 12, video 20, category 7: its score is nan",
        "result 13, video 30, category 3: repeats result 4",
    ):
        assert words in done.stderr
    assert done.stderr.count(str(results)) >= 8


def test_the_first_twenty_faults_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = [{**r, "video_id": 99} for r in truth_as_results(truth)] * 10
    done = vistool(truth, "-p", write(tmp_path / "p.json", results))
    assert done.exit_code == 3
    assert "and 40 more" in done.stderr
    assert len(done.stderr.splitlines()) <= 23


def test_a_zip_with_a_folder_in_it_is_refused(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("run/results.json", json.dumps(truth_as_results(truth)))
    done = vistool(truth, "-p", tmp_path / "out.zip")
    assert done.exit_code == 3
    assert "'run/results.json'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["set.json"], 2, "one of --predictions, --model and --compare"),
        (["set.json", "-p", "p.json", "-m", "ifc-lite"], 2, "one of --predictions"),
        (["nothing.json", "-p", "p.json"], 3, "nothing.json"),
        (["set.json", "-p", "nothing.json"], 3, "nothing.json"),
        (["set.json", "-p", "text.json"], 3, "text.json: not a readable JSON file"),
        (["set.json", "-p", "set.json"], 3, "set.json"),
        (["set.json", "-m", "nothing"], 4, "no weights named 'nothing'"),
    ],
)
def test_unusable_input_ends_with_its_exit_code_and_one_line(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    write(tmp_path / "p.json", truth_as_results(make_set(tmp_path)))
    (tmp_path / "text.json").write_text("not json")
    done = vistool(*arguments)
    assert done.exit_code == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


# Submissions


def test_a_submission_is_a_zip_with_the_results_at_its_top(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    results = write(tmp_path / "p.json", truth_as_results(path))
    content = json.loads(path.read_text())
    del content["annotations"]
    kept_back: list[dict[str, Any]] = [{}, {"annotations": None}, {"annotations": []}]
    for labels in kept_back:
        test_set = write(tmp_path / "test.json", {**content, **labels})
        done = vistool(test_set, "-p", results, "--submission", tmp_path / "out.zip", "--exist-ok")
        assert done.exit_code == 0, done.stderr
        assert done.stdout == f"{tmp_path / 'out.zip'}\n"
        with zipfile.ZipFile(tmp_path / "out.zip") as archive:
            assert archive.namelist() == ["results.json"]
            assert json.loads(archive.read("results.json")) == json.loads(results.read_text())
        assert scored(path, "-p", tmp_path / "out.zip")["ytvis"]["AP"] == 1


def test_a_submission_that_servers_would_refuse_is_not_written(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    results = write(tmp_path / "p.json", spoilt(path))
    done = vistool(path, "-p", results, "--submission", tmp_path / "out.zip", "--exist-ok")
    assert done.exit_code == 3
    assert not (tmp_path / "out.zip").exists()


def test_a_set_without_labels_can_only_be_submitted_to(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    results = write(tmp_path / "p.json", truth_as_results(path))
    content = json.loads(path.read_text())
    done = vistool(write(path, {**content, "annotations": []}), "-p", results)
    assert done.exit_code == 3
    assert "has no labels" in done.stderr
    assert "--submission" in done.stderr


# Comparing


def test_two_results_are_compared_with_the_significance_of_differences(tmp_path: Path) -> None:
    truth = make_set(tmp_path, lengths=(3,) * 12)
    good = truth_as_results(truth)
    a = write(tmp_path / "a.json", [r for r in good if r["category_id"] == 3])
    b = write(tmp_path / "b.json", good)
    done = vistool(truth, "--compare", a, b, "--json", "--samples", "200")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["compare"]
    assert (found["AP"]["a"], found["AP"]["b"]) == (0.5, 1.0)
    assert found["AP"]["difference"] == found["AP"]["low"] == found["AP"]["high"] == 0.5
    assert found["AP"]["p"] < 0.02
    assert found["AR1"]["b"] == 1
    assert found["HOTA"]["difference"] == pytest.approx(0.5)
    assert found["J_mean"]["difference"] == pytest.approx(0.5)
    table = vistool(truth, "--compare", a, b, "--samples", "200").stdout
    assert "95 % interval" in table
    assert "12 videos, drawn 200 times" in table
    same = vistool(truth, "--compare", b, b, "--samples", "100", "--json")
    assert json.loads(same.stdout)["compare"]["AP"]["p"] == 1


def test_j_and_f_of_a_large_set_are_computed_on_request(tmp_path: Path) -> None:
    truth = make_set(tmp_path)
    results = write(tmp_path / "p.json", truth_as_results(truth))
    assert "davis" not in scored(truth, "-p", results, "--no-davis")
    content = json.loads(truth.read_text())
    many = [{**a, "id": i} for i, a in enumerate(content["annotations"] * 210, start=1)]
    large = write(tmp_path / "large.json", {**content, "annotations": many})  # 5,040 masks
    assert "davis" not in scored(large, "-p", results)
    done = vistool(large, "--compare", results, results, "--json", "--samples", "100")
    assert "J_mean" not in json.loads(done.stdout)["compare"]
