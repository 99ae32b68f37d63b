"""Commands on a system without signals and functions that only POSIX has, as Windows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made_data import make_pictures
from tests.test_predict_command import make_video
from tests.untrained import save_untrained

IMPORT_ALL = """
import importlib, pkgutil, vistool
for module in pkgutil.walk_packages(vistool.__path__, "vistool."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from vistool.engine.evaluate.run_model import _terminal_signals_ignored
from vistool.signals import ended_by_signals, stop_request
with ended_by_signals(), stop_request(), _terminal_signals_ignored():
    pass
"""
RUN = """
import json, sys
from typer.testing import CliRunner
from vistool.cli.app import app
if __name__ == "__main__":  # workers import this file, too
    for arguments in json.load(open(sys.argv[1])):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (arguments, done.stderr, done.exception)
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a program to which vistool looks as on such a system."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    shutil.copy(Path(__file__).with_name("elsewhere.py"), place / "sitecustomize.py")
    root = Path(__file__).parent.parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(root)])}


def run(script: Path, environment: dict[str, str], *arguments: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_names_that_only_posix_has_are_gone(elsewhere: dict[str, str], tmp_path: Path) -> None:
    """The test of the test."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "assert hasattr(os, 'fork') and hasattr(signal, 'SIGHUP')\n"
        "import vistool.signals as seen\n"
        "assert not hasattr(seen.signal, 'SIGHUP')\n"
        "assert [number.name for number in seen.STOP_SIGNALS] == ['SIGINT', 'SIGTERM']\n"
        "import vistool.formats.files as files\n"
        "assert not hasattr(files.os, 'fork') and files.os.name == 'nt'\n"
    )
    run(script, elsewhere)


def test_every_module_can_be_imported_and_signals_be_dealt_with(
    elsewhere: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(IMPORT_ALL)
    run(script, elsewhere)


@pytest.mark.slow
def test_commands_run(elsewhere: dict[str, str], tmp_path: Path) -> None:
    source = make_video(tmp_path / "one.mp4", 3)
    weights = save_untrained(tmp_path / "w.safetensors", ("red square", "person"), num_queries=8)
    runs, pictures = tmp_path / "runs", make_pictures(tmp_path / "set", 4)
    model = ("-m", str(weights), "--conf", "0")
    commands: list[list[str | Path]] = [
        ["predict", source, *model, "-o", runs, "--save", "csv,davis"],
        ["predict", source, *model, "-o", runs, "--exist-ok"],
        ["render", source, runs / "one"],
        ["data", "split", pictures, "--fraction", "0.5"],
        ["data", "convert", pictures, "--to", "davis", "-o", tmp_path / "davis"],
        ["eval", pictures, *model, "--workers", "2", "-o", tmp_path / "eval", "--no-report"],
    ]
    script, wanted = tmp_path / "script.py", tmp_path / "commands.json"
    script.write_text(RUN)
    wanted.write_text(json.dumps([[str(word) for word in command] for command in commands]))
    run(script, elsewhere, wanted)
    assert (runs / "one" / "overlay-2.mp4").exists()
