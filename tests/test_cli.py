"""The command line: imports, failures, and progress."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.made_data import make_pictures
from vistool.cli import console
from vistool.cli.app import Commands, app
from vistool.cli.weights import print_weights
from vistool.config import EfficientNetLiteConfig, IFCConfig, to_json
from vistool.errors import (
    DataError,
    OutOfMemoryError,
    PartialFailureError,
    UsageError,
    VistoolError,
    WeightsError,
    is_out_of_memory,
)
from vistool.models.checkpoints.files import available_weights

runner = CliRunner()
MODEL = IFCConfig(class_names=("cat", "dog"), backbone=EfficientNetLiteConfig())


def program(action: Callable[[], None]) -> typer.Typer:
    """A program of our command class with one command, `act`, which calls `action`."""
    made = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False)
    made.command()(lambda: action())
    made.callback()(lambda: None)
    made.registered_commands[0].name = "act"
    return made


def raising(error: BaseException) -> typer.Typer:
    def action() -> None:
        raise error

    return program(action)


# What is loaded


def test_the_command_line_imports_no_heavy_packages() -> None:
    heavy = {"torch", "numpy", "cv2", "scipy", "rich", "pycocotools", "safetensors"}
    script = (
        "import sys, vistool.cli.app as a\n"
        "try: a.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('loaded', sorted({heavy} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "loaded []"


def test_help_and_version_answer_on_stdout() -> None:
    for arguments, text in ((["--help"], "Examples:"), ([], "Examples:"), (["--version"], "0.")):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0
        assert text in result.stdout
        assert not result.stderr


@pytest.mark.parametrize("name", ["predict", "render", "eval", "train", "weights"])
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    result = runner.invoke(app, [name, "--help"])
    assert result.exit_code == 0
    if name == "weights":  # a group; its commands have their own
        result = runner.invoke(app, [name, "show", "--help"])
    assert f"Example: vistool {name}" in " ".join(result.stdout.split())


# Failures


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VistoolError("it failed", hint="do that"), 1),
        (UsageError("it failed", hint="do that"), 2),
        (DataError("it failed", hint="do that"), 3),
        (WeightsError("it failed", hint="do that"), 4),
        (OutOfMemoryError("it failed", hint="do that"), 5),
        (PartialFailureError("it failed", hint="do that"), 6),
    ],
)
def test_an_expected_failure_is_two_lines_and_its_exit_code(error: VistoolError, code: int) -> None:
    result = runner.invoke(raising(error), ["act"])
    assert result.exit_code == code
    assert result.stderr == "error: it failed\nhint: do that\n"
    assert not result.stdout


def test_an_error_without_a_hint_is_one_line() -> None:
    assert runner.invoke(raising(DataError("no")), ["act"]).stderr == "error: no\n"


@pytest.mark.parametrize("arguments", [["--debug", "act"], ["act", "--debug"]])
def test_debug_shows_the_traceback_at_any_position(arguments: list[str]) -> None:
    made = raising(DataError("no such thing"))
    result = runner.invoke(made, arguments)
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: no such thing\n")


def test_debug_after_two_dashes_is_a_name() -> None:
    result = runner.invoke(app, ["weights", "show", "--", "--debug"])
    assert result.exit_code == 4
    assert "no weights named '--debug'" in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_ends_with_130_and_one_line() -> None:
    result = runner.invoke(raising(KeyboardInterrupt()), ["act"])
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_full_memory_ends_with_5_and_a_way_out() -> None:
    for error in (
        MemoryError(),
        np.exceptions.AxisError("std::bad_alloc"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried..."),
        cv2.error("OpenCV: (-4:Insufficient memory) Failed to allocate 12 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ):
        error.add_note("what was done is in runs")
        result = runner.invoke(raising(error), ["act"])
        assert result.exit_code == 5
        lines = result.stderr.splitlines()
        assert lines[:2] == ["error: this computer's memory is full", "what was done is in runs"]
        assert lines[2].startswith("hint: ")


def test_other_errors_are_no_matter_of_memory() -> None:
    for error in (RuntimeError("shape"), OSError(errno.ENOENT, "x"), ValueError("allocate")):
        assert not is_out_of_memory(error)


def test_a_system_error_names_the_file() -> None:
    error = OSError(28, "No space left on device", "/disk/overlay.mp4")
    result = runner.invoke(raising(error), ["act"])
    assert result.exit_code == 1
    assert result.stderr == "error: /disk/overlay.mp4: No space left on device\n"


def test_a_failure_prints_its_notes() -> None:
    for error in (VistoolError("it failed", hint="do that"), OSError(28, "it failed")):
        error.add_note("3 frames are in here")
        lines = runner.invoke(raising(error), ["act"]).stderr.splitlines()
        assert lines[:2] == ["error: it failed", "3 frames are in here"]


def test_a_bug_keeps_its_traceback() -> None:
    result = runner.invoke(raising(ZeroDivisionError("a bug")), ["act"])
    assert isinstance(result.exception, ZeroDivisionError)
    assert "error:" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "help_of"),
    [
        (["rendr"], "Did you mean 'render'", "vistool"),
        (["render"], "Missing argument 'SOURCE'", "vistool render"),
        (["render", "a", "b", "--alhpa", "1"], "--alhpa", "vistool render"),
        (["render", "a", "b", "--alpha", "2"], "--alpha", "vistool render"),
        (["weights"], "Missing command", "vistool weights"),
        (["--colour"], "--colour", "vistool"),
    ],
)
def test_wrong_options_end_with_2_and_point_to_the_help(
    arguments: list[str], message: str, help_of: str
) -> None:
    result = runner.invoke(app, arguments, prog_name="vistool")
    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint == f"hint: {help_of} --help lists commands and options"


def test_a_closed_pipe_is_not_an_error() -> None:
    script = (
        "import typer; from vistool.cli.app import Commands\n"
        "app = typer.Typer(cls=Commands)\n"
        "app.command()(lambda: [typer.echo('x' * 10000) for _ in range(100)] and None)\n"
        "app.callback()(lambda: None)\n"
        "app.registered_commands[0].name = 'act'\n"
        "app(['act'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert complaint == b""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nothing.mp4", "run"], 3), (["TEXT", "run"], 3), (["nothing.mp4", "run", "-o", "a.avi"], 2)],
)
def test_render_refuses_what_it_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    arguments = [word.replace("TEXT", "text.mp4") for word in arguments]
    result = runner.invoke(app, ["render", *arguments])
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


# Weights


def write_weights(path: Path, **metadata: str) -> Path:
    from safetensors.numpy import save_file

    save_file({}, path, metadata={"config": to_json(MODEL), **metadata})
    return path


def test_weights_list_shows_the_shipped_weights() -> None:
    listed = json.loads(runner.invoke(app, ["weights", "list", "--json"]).stdout)
    assert [row["name"] for row in listed] == [path.stem for path in available_weights()]


def test_weights_are_a_row_each_and_unreadable_ones_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = write_weights(tmp_path / "small.safetensors", license="CC0", score="AP 0.25")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"torn")
    print_weights([small, torn], as_json=False)
    written = capsys.readouterr()
    head, line = written.out.splitlines()
    assert head.split() == ["name", "MB", "architecture", "classes", "license", "score"]
    assert line.split() == [
        "small", "0.0", "ifc,", "efficientnet-lite", "2", "CC0", "AP", "0.25",
    ]  # fmt: skip
    assert written.err.startswith(f"warning: {torn}: not a readable")
    print_weights([small, torn], as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["classes"]) for row in listed] == [("small", 2)]


def test_weights_list_says_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_weights([], as_json=False)
    written = capsys.readouterr()
    assert not written.out
    assert "no weights" in written.err


def test_weights_show_prints_all_of_the_header_and_the_checksum(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w.safetensors", license="CC0", training_data="my cats")
    shown = runner.invoke(app, ["weights", "show", str(path)]).stdout
    checksum = subprocess.run(
        ["sha256sum", path], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    for text in (checksum, "cat, dog", "CC0", "my cats", '"hidden_dim": 256', str(path)):
        assert text in shown
    facts = json.loads(runner.invoke(app, ["weights", "show", str(path), "--json"]).stdout)
    assert facts["sha256"] == checksum
    assert facts["config"]["class_names"] == ["cat", "dog"]
    assert facts["metadata"] == {"license": "CC0", "training_data": "my cats"}


def test_a_header_cannot_control_the_terminal(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w.safetensors", license="\x1b[2Jfree")
    assert "\x1b" not in runner.invoke(app, ["weights", "show", str(path)]).stdout


# Progress


def test_progress_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(pause=0.0) as show:
        show("segmenting", 1, 40)
        show("segmenting", 20, 40)
        show("drawing", 1, None)
    captured = capsys.readouterr()
    assert not captured.out
    first, second, third = captured.err.splitlines()
    assert first == "segmenting: 1/40 frames"
    assert second.startswith("segmenting: 20/40 frames, ")
    assert second.endswith(" left")
    assert third == "drawing: 1 frames"


def test_progress_is_silent_when_quiet_or_done_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with console.progress(pause=600.0) as show:
        show("drawing", 1, 2)
    with console.progress(quiet=True, pause=0.0) as show:
        show("drawing", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_on_a_terminal_and_removed_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console.progress() as show:
        show("training, loss [1.5]", 7, 10)
        console.answer("a result")
        console.say("a note")
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    assert "training, loss [1.5]" in captured.err
    assert "7/10 frames" in captured.err
    assert "\r\x1b[2Ka note\n" in captured.err  # on a line of its own
    assert captured.err.endswith("\x1b[2K")  # the line is erased
    assert "\x1b[3" not in captured.err  # no colours


def test_a_long_answer_is_not_broken_by_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    texts = ["runs/predict/" + "a long name " * 20, '{"a": [bold], "b": "\\u00e9"}' * 9]
    with console.progress() as show:
        show("segmenting", 1, 10)
        for text in texts:
            console.answer(text)
            console.say(text)
    written = capsys.readouterr().err  # the bar's console; both are one terminal
    assert [written.count(f"{text}\n") for text in texts] == [2, 2]


def test_speed_counts_from_where_a_resumed_job_begins() -> None:
    now = 0.0
    pace = console._Pace(lambda: now)
    assert pace.speed(5000) == 0
    now = 10.0
    assert pace.speed(5020) == 2
    assert pace.speed(1) == 0  # the next stage
    now = 11.0
    assert pace.speed(4) == 3


def in_shell(how: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program as a shell starts it: `how` has "$@" where its words go."""
    words = ["bash", "-c", how, "-", sys.executable, "-m", "vistool", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_too_little_address_space_is_told_before_anything_is_loaded() -> None:
    done = in_shell('ulimit -v 1000000; exec "$@"', "weights", "list")
    assert done.returncode == 5
    assert done.stderr.splitlines() == [
        "error: this process may have 1024 MB of address space; vistool needs 1500 at least",
        "hint: raise the limit, as by `ulimit -v unlimited`",
    ]
    assert in_shell('ulimit -v 1000000; exec "$@"', "predict", "--help").returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_standard_streams_does_its_work(tmp_path: Path, closed: str) -> None:
    """Else a file would get the number of one, and what is said would go into it."""
    path = make_pictures(tmp_path, 2)
    done = in_shell(f'exec "$@" {closed}', "data", "split", path, "--fraction", "0.5")
    assert done.returncode == 0, done.stderr
    for name in ("pictures-train.json", "pictures-val.json"):
        assert len(json.loads((tmp_path / name).read_text())["images"]) == 1


def test_names_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("error: a\x1b[2Jb\rc\nhint: d\udcff")
    assert capsys.readouterr().err == "error: a?[2Jb?c\nhint: d?\n"
