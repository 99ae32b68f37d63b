"""The training loop: it learns, resumes exactly, and describes its files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.made_data import make_pictures, make_video
from tests.made_training import KilledError, dies_at, lines, losses, settings
from vistool.cli.train import train as command
from vistool.config import (
    AugmentConfig,
    IFCConfig,
    ValidationConfig,
)
from vistool.data.labelled import read_annotations
from vistool.engine.distributed import Processes
from vistool.engine.train.checkpoint import CHECKPOINT, PREVIOUS
from vistool.engine.train.log import LOG, STARTS, code_revision
from vistool.engine.train.setup import started_with
from vistool.engine.train.train import BEST, WEIGHTS, train
from vistool.engine.train.validate import validate
from vistool.errors import (
    UsageError,
    WeightsError,
)
from vistool.models.checkpoints.files import load_model, read_header
from vistool.structures import ClipOutput, FrameFeatures


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = settings(tmp_path)
    train(config, whole)

    with pytest.raises(KilledError):
        train(config, broken, on_step=dies_at(5))  # the checkpoint is that of step 4
    assert [step for step, _ in losses(broken)] == [1, 2, 3, 4, 5]
    train(started_with(broken), broken)

    assert losses(whole) == losses(broken)
    assert [step for step, _ in losses(whole)] == [1, 2, 3, 4, 5, 6]
    starts = [json.loads(line) for line in (broken / STARTS).read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 4]
    expected, resumed = load_model(str(whole / WEIGHTS)), load_model(str(broken / WEIGHTS))
    for key, value in expected.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[key], value, rtol=0, atol=0)


def test_the_weight_file_describes_itself(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    weights = train(settings(tmp_path, steps=1), tmp_path / "run")
    header = read_header(weights)
    assert header.config.class_names == ("red", "blue")
    assert header.metadata["license"] == "Apache-2.0"
    assert header.metadata["steps"] == "1 of 1"
    assert json.loads(header.metadata["training"])["batch"] == 2
    assert str(tmp_path) not in "".join(header.metadata.values())


def test_a_run_is_resumed_only_with_its_own_settings(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    train(settings(tmp_path, steps=1), tmp_path / "run")
    with pytest.raises(UsageError, match="other settings"):
        train(settings(tmp_path, steps=1, seed=5), tmp_path / "run")
    with pytest.raises(UsageError, match="no training was started"):
        started_with(tmp_path)


def flipped(path: Path) -> None:
    """Change one bit of a tensor; torch reads the file without an error."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    make_pictures(tmp_path, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(settings(tmp_path), whole)
    with pytest.raises(KilledError):
        train(settings(tmp_path), broken, on_step=dies_at(5))
    damage(broken / CHECKPOINT)
    warnings: list[str] = []
    train(settings(tmp_path), broken, on_warning=warnings.append)
    assert losses(whole) == losses(broken)
    if damage is Path.unlink:  # as if killed between two renamings, which is not damage
        assert warnings == []
    else:
        assert "not a usable checkpoint" in warnings[0]
        assert "of step 2" in warnings[0]


def test_two_damaged_checkpoints_are_reported(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    train(settings(tmp_path, steps=4), run)
    for name in (CHECKPOINT, PREVIOUS):
        cut(run / name)
    with pytest.raises(WeightsError, match="not a usable checkpoint"):
        train(settings(tmp_path, steps=4), run)


def test_an_incomplete_last_line_of_the_log_is_rewritten(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train(settings(tmp_path), run, on_step=dies_at(3))
    with (run / LOG).open("a") as log:
        log.write('{"step":4,"lo')
    train(settings(tmp_path), run)
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]


def test_a_data_folder_is_refused_beside_a_data_set(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 1)
    with pytest.raises(UsageError, match="data goes with a configuration"):
        command(config=path, data=tmp_path, quiet=True)


def test_a_run_is_resumed_even_if_its_initial_weights_are_gone(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    start = train(settings(tmp_path, steps=1), tmp_path / "start")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = settings(tmp_path, init=str(start))
    train(config, whole)
    with pytest.raises(KilledError):
        train(config, broken, on_step=dies_at(3))
    start.unlink()
    command(resume=broken, quiet=True)
    assert losses(broken) == losses(whole)


def test_the_best_of_the_validated_weights_are_kept(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    run, broken = tmp_path / "run", tmp_path / "broken"
    plan = ValidationConfig(annotations="pictures.json", every=2, measure="AP50")
    config = settings(tmp_path, steps=5, validation=plan)
    train(config, run)
    scores = {line["step"]: line["val_AP50"] for line in lines(run) if "val_AP50" in line}
    assert sorted(scores) == [2, 4, 5]  # also after the last step
    header = read_header(run / BEST)
    best = max(scores, key=lambda step: (scores[step], -step))
    assert header.metadata["steps"] == f"{best} of 5"
    assert f"AP50 {scores[best]:.4f} on pictures.json" in header.metadata["validation"]
    with pytest.raises(KilledError):
        train(config, broken, on_step=dies_at(3))
    train(config, broken)
    assert read_header(broken / BEST).metadata == header.metadata
    expected, resumed = (load_model(str(r / BEST)).model.state_dict() for r in (run, broken))
    for key, value in expected.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)


def test_a_perfect_model_has_a_validation_ap_of_one(tmp_path: Path) -> None:
    videos = read_annotations(make_video(tmp_path, 4), {"red": ["red square"]})
    model = OneSquare()
    scores = validate(model, videos, Processes(torch.device("cpu")))  # type: ignore[arg-type]
    assert scores == {"AP": 1.0, "AP50": 1.0}


class OneSquare:
    """Predicts the pixels as red as the synthetic square, with a high score."""

    config = IFCConfig(class_names=("red",), test_short_side=64, clip_length=2, clip_stride=1)

    def encode_frames(self, pixels: torch.Tensor) -> FrameFeatures:
        red, _, blue = pixels.unbind(1)
        logits = torch.where(red - blue > 2, 10.0, -10.0)
        return FrameFeatures(top=logits[:, None], laterals=(), padded=None)

    def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
        masks = features.top.unflatten(0, (-1, num_frames)).transpose(1, 2)
        return ClipOutput(torch.tensor([[[10.0, -10.0]]]).expand(len(masks), -1, -1), masks)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_revision_is_that_of_the_code_instead_of_the_repository_around_it(
    tmp_path: Path,
) -> None:
    package, installed = tmp_path / "package", tmp_path / "venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("x = 1\n")
    assert code_revision(package) is None
    git(tmp_path, "init")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert code_revision(package) == commit
    assert code_revision(installed) is None
    (package / "__init__.py").write_text("x = 2\n")
    assert code_revision(package) == f"{commit}-dirty"


def test_a_run_is_resumed_with_its_own_settings_and_the_few_that_may_change(tmp_path: Path) -> None:
    make_pictures(tmp_path / "here", 2)
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train(settings(tmp_path / "here", steps=3), run, on_step=dies_at(2))
    with pytest.raises(UsageError, match="own settings"):
        command(config=tmp_path / "other.toml", resume=run)
    with pytest.raises(UsageError, match="started with other settings: seed"):
        command(resume=run, overrides=["seed=9"])
    (tmp_path / "here").rename(tmp_path / "moved")
    command(resume=run, data=tmp_path / "moved", quiet=True)
    assert [step for step, _ in losses(run)] == [1, 2, 3]
    assert started_with(run).data == str(tmp_path / "moved")


def test_training_starts_from_another_run_s_weights(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    first = train(settings(tmp_path, steps=1), tmp_path / "first")
    second = train(
        settings(tmp_path, steps=1, init=str(first), learning_rate=0.0, backbone_rate=0.0),
        tmp_path / "second",
    )
    started = load_model(str(first)).model.state_dict()
    for key, value in load_model(str(second)).model.state_dict().items():
        torch.testing.assert_close(value, started[key], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_tiny_model_learns_to_distinguish_synthetic_squares(tmp_path: Path) -> None:
    make_pictures(tmp_path, 8)
    run = tmp_path / "run"
    rates = {"learning_rate": 1e-3, "backbone_rate": 1e-3, "warmup_steps": 100}
    # Without augmentation, which would take longer to learn than a test may.
    plain = AugmentConfig(motion=0.0, colour=0.0, blur_chance=0.0, paste_chance=0.0)
    train(settings(tmp_path, steps=400, batch=4, augment=plain, **rates), run)
    values = [loss for _, loss in losses(run)]
    assert sum(values[-20:]) < 0.5 * sum(values[:20])
