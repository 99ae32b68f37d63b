"""The report: a complete, safe page without requests, and files with the same content."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

import cv2
import msgspec
import numpy as np
import pytest

from tests.browser import Browser, headless_browser
from vistool.annotations.dataset import AnnotatedTrack, AnnotatedVideo, DataSet
from vistool.cli.eval import table
from vistool.config import EvalConfig
from vistool.engine.evaluate.evaluate import Evaluation, measure
from vistool.engine.evaluate.predictions import Predictions
from vistool.engine.evaluate.report.files import write_diagnosis, write_figures
from vistool.engine.evaluate.report.page import write_report
from vistool.formats.masks.rle import encode_mask
from vistool.formats.results.files import Category
from vistool.metrics.curves import PrecisionRecallCurves
from vistool.metrics.errors.diagnosis import Diagnosis
from vistool.rendering.film_strip import StripFrame, chosen_frames, film_strip
from vistool.rendering.page import Link, Page, Picture, Section, Table, render_page
from vistool.structures import RLE, Size, TrackSegmentation

EVIL = "<script>alert('x')</script>&\"$x_1$"
HEIGHT, WIDTH, LENGTH = 48, 64, 8
Masks = list[RLE | None]


def moving(top: int, frames: range = range(LENGTH)) -> Masks:
    masks: Masks = [None] * LENGTH
    for t in frames:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + 14, 5 * t : 5 * t + 14] = True
        masks[t] = encode_mask(mask)
    return masks


TRUTH = {
    1: [AnnotatedTrack(1, 1, moving(0)), AnnotatedTrack(1, 2, moving(30))],
    2: [AnnotatedTrack(2, 1, moving(10))],
}


def predicted(video: int, category: int, score: float, masks: Masks) -> TrackSegmentation:
    return {"video_id": video, "category_id": category, "score": score, "segmentations": masks}


PREDICTIONS = {
    1: [predicted(1, 1, 0.9, moving(1)), predicted(1, 1, 0.8, moving(30))],
    2: [predicted(2, 1, 0.7, moving(10, range(3))), predicted(2, 2, 0.6, moving(34))],
}


def report(
    pictures: Path | None = None, name: str = "a & b", failed: Mapping[int, str] | None = None
) -> Evaluation:
    names = tuple(f"{t}.png" for t in range(LENGTH)) if pictures else ()
    size = Size(HEIGHT, WIDTH)
    dataset = DataSet(
        path=Path(name),
        kind="youtube-vis",
        frames=pictures or Path(),
        categories=(Category(id=1, name=name), Category(id=2, name="other")),
        videos=tuple(AnnotatedVideo(i, f"{name} {i}", size, LENGTH, names) for i in TRUTH),
        tracks=tuple(track for tracks in TRUTH.values() for track in tracks),
    )
    found = [prediction for predictions in PREDICTIONS.values() for prediction in predictions]
    predictions = Predictions(Path("p.json"), "", found, failed=failed or {})
    return measure(dataset, predictions, EvalConfig())


def written(path: Path, content: Evaluation) -> str:
    write_report(path, content)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Frames of one colour, in a folder whose name needs quoting in links."""
    folder = tmp_path / "data set #1"
    folder.mkdir()
    for t in range(LENGTH):
        cv2.imwrite(str(folder / f"{t}.png"), np.full((HEIGHT, WIDTH, 3), (40, 90, 40), np.uint8))
    return folder


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("out") / "new" / "report.html", report())


def test_the_page_has_every_part_and_requests_nothing(html: str) -> None:
    sections = re.findall(r'<section id="(\w+)"', html)
    assert sections == [
        *("overview", "why", "tables", "curves", "confusion", "calibration"),
        *("videos", "tracks", "false"),
    ]
    assert len(re.findall(r"<img ", html)) >= 7 + 3
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert 'content="default-src &#39;none&#39;; img-src data:;' in html
    assert "http" not in re.sub(r'src="data:[^"]*"', "", html).replace("http-equiv", "")


def test_every_link_leads_to_a_place_on_the_page(html: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]*)"', html)
    assert set(links) <= set(ids)
    assert {"track-1", "false-1"} <= set(links)


def test_names_from_files_stay_text(tmp_path: Path) -> None:
    html = written(tmp_path / "report.html", report(name=EVIL))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert html.count("<script>") == 1


def test_strips_show_the_pictures_and_link_to_them(tmp_path: Path, pictures: Path) -> None:
    path = tmp_path / "out" / "report.html"
    html = written(path, report(pictures))
    links = [unquote(link) for link in re.findall(r'href="(\./[^"]+)"', html)]
    assert links
    assert all((path.parent / link).resolve().parent == pictures for link in links)
    strip = re.search(r'id="track-1".*?base64,([^"]+)"', html, re.DOTALL)
    assert strip
    image = cv2.imdecode(np.frombuffer(base64.b64decode(strip[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert abs(image[2, 2].astype(int) - (40, 90, 40)).max() < 12  # the picture's own colour


def test_strips_are_grey_where_pictures_cannot_be_read(tmp_path: Path) -> None:
    for t in range(0, LENGTH, 2):
        (tmp_path / f"{t}.png").write_bytes(b"no picture")  # and the other files are missing
    html = written(tmp_path / "report.html", report(tmp_path))
    assert 'id="track-1"' in html


def test_a_link_never_leads_off_the_machine() -> None:
    for target in ("https://example.org/", "//example.org/x", "javascript:alert(1)"):
        with pytest.raises(ValueError, match="link to another machine"):
            Link("here", target)


def test_a_table_shows_numbers_links_and_gaps() -> None:
    table = Table("numbers", ("a", "b", "c", "d"), [(0.25, 12345, Link("there", "#x"), None)])
    html = render_page(Page("title", [Section("x", "X", [table])]))
    assert '<td class="number" data-value="0.25">0.250</td>' in html
    assert '<td class="number" data-value="12345">12\u2009345</td>' in html
    assert '<td><a href="#x">there</a></td>' in html


def test_pictures_have_alternative_texts() -> None:
    picture = Picture(b"123", "image/png", 'a "red" square', anchor="here")
    html = render_page(Page("title", [Section("x", "X", [picture])]))
    assert '<figure id="here">' in html
    assert 'src="data:image/png;base64,MTIz" alt="a &#34;red&#34; square"' in html


def test_a_strip_tints_the_prediction_and_outlines_the_truth() -> None:
    truth, prediction = np.zeros((2, 300, 400), bool)
    truth[40:160, 40:160] = True
    prediction[150:280, 240:380] = True
    black = np.zeros((300, 400, 3), np.uint8)
    strip = film_strip([StripFrame(3, truth, prediction, (300, 400), black)] * 2)
    image = cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (150, 2 * 200 + 4, 3)
    assert image[50, 50].max() < 40  # inside the labelled track, which is only outlined
    assert image[20:23, 30:70].max() > 150
    assert np.ptp(image[107, 155].astype(int)) > 40  # a colour, not a grey


def test_strips_choose_few_frames_from_the_first_to_the_last() -> None:
    present = np.zeros(100, bool)
    present[10:90] = True
    chosen = chosen_frames(present, 6)
    assert (len(chosen), chosen[0], chosen[-1]) == (6, 10, 89)
    assert chosen_frames(present[:12], 6) == [10, 11]
    assert chosen_frames(present[:5], 6) == []


def test_data_files_have_the_content_of_the_diagnosis(tmp_path: Path) -> None:
    content = report()
    files = {path.name: path for path in write_diagnosis(tmp_path, content)}
    stored = json.loads(files["diagnosis.json"].read_text())
    assert msgspec.convert(stored.pop("curves"), PrecisionRecallCurves) == content.curves
    assert msgspec.convert(stored, Diagnosis) == content.diagnosis
    assert stored["breakdown"]["ap50"] == content.diagnosis.breakdown.ap50

    def rows(name: str) -> list[dict[str, str]]:
        with files[name].open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    kinds = {row["kind"]: int(row["count"]) for row in rows("errors.csv")}
    assert kinds == {str(m.kind): m.count for m in content.diagnosis.breakdown.kinds}
    assert kinds["class"] == kinds["temporal extent"] == kinds["background"] == 1
    assert [row["name"] for row in rows("videos.csv")] == ["a & b 1", "a & b 2"]
    columns = ["name", "video_id", "num_truth", "num_found", "num_false", "ap_lost", "ap50_lost"]
    assert list(rows("videos.csv")[0]) == [*columns, *kinds]
    assert len(rows("tracks.csv")) == 3
    assert len(rows("false_positives.csv")) == 3
    assert len(rows("curves.csv")) == 101 * len(content.curves.curves)
    # two pairs, two predictions on the background, one miss
    assert sum(int(row["count"]) for row in rows("confusion.csv")) == 5
    assert len(rows("calibration.csv")) == 10


def test_every_chart_is_a_png_file_as_well(tmp_path: Path) -> None:
    files = write_figures(tmp_path, report(name=EVIL))
    names = {path.stem for path in files}
    assert {"error_breakdown", "precision_recall", "confusion", "calibration"} <= names
    for path in files:
        image = cv2.imread(str(path))
        assert image is not None
        assert min(image.shape[:2]) > 100
        assert np.ptp(image) > 100
    assert not list(tmp_path.glob(".*"))


def test_the_text_names_the_costliest_kind_first() -> None:
    text = table(report(name="line\nbreak\x1b[31m"))
    lines = text[text.index("if corrected") :].splitlines()
    gains = [float(line.split()[-3]) for line in lines[1:9]]
    assert gains == sorted(gains, reverse=True)
    assert any(line.startswith("line?break?[31m 2") for line in lines)


def test_a_report_without_videos_is_written(tmp_path: Path) -> None:
    empty = report(failed=dict.fromkeys(TRUTH, "no frames"))
    html = written(tmp_path / "report.html", empty)
    assert "Every labelled track was found." in html
    assert table(empty)
    assert write_figures(tmp_path, empty)


# --- in a real browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with headless_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.slow
def test_a_browser_shows_the_page_without_errors_or_requests(
    browser: Browser, tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / "report.html"
    written(path, report(pictures, name=EVIL))
    browser.open(path)
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 50)")
    assert browser.evaluate("document.title") == f"{Path(EVIL).name}: p.json"
    assert browser.evaluate("getComputedStyle(document.body).maxWidth") != "none"


@pytest.mark.slow
def test_the_browser_blocks_external_content(browser: Browser, tmp_path: Path) -> None:
    """The check above can fail: an external script and picture are detected and blocked."""
    path = tmp_path / "report.html"
    html = written(path, report())
    foreign = "<script>document.title = 'changed'</script><img src='http://127.0.0.1:9/x.png'>"
    path.write_text(html.replace("</main>", f"{foreign}</main>"))
    browser.open(path)
    assert len(browser.complaints()) >= 2
    assert browser.evaluate("document.title") == "a & b: p.json"


@pytest.mark.slow
def test_a_click_or_the_keyboard_sorts_a_table(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    written(path, report())
    browser.open(path)
    first = "document.querySelector('#why tbody tr').cells[0].textContent"
    head = "document.querySelectorAll('#why th button')"
    assert browser.evaluate(first) == "class"
    browser.evaluate(f"{head}[0].click()")
    assert browser.evaluate(first) == "temporal extent"
    browser.evaluate(f"{head}[0].click()")
    assert browser.evaluate(first) == "background"
    browser.evaluate(f"{head}[2].focus()")
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        browser.call("Input.dispatchKeyEvent", type=kind, **key)
    counts = browser.evaluate(
        "[...document.querySelectorAll('#why tbody tr')].map(r => +r.cells[2].dataset.value)"
    )
    assert counts == sorted(counts, reverse=True)
