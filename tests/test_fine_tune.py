"""Fine-tuning: a training that needs only a data set and weights."""

from __future__ import annotations

import doctest
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import vistool
from tests.made_data import CATEGORIES, make_pictures, make_video
from tests.made_training import lines, losses
from vistool.annotations.read import read_dataset
from vistool.cli.train import train as command
from vistool.config import (
    IFCConfig,
    ModelConfig,
    ResNetConfig,
    TrainConfig,
    VisTRConfig,
    from_mapping,
)
from vistool.engine.train.fine_tune import DEFAULT_INIT, fine_tuning
from vistool.engine.train.setup import started_with
from vistool.engine.train.train import BEST, WEIGHTS
from vistool.errors import DataError, UsageError, WeightsError
from vistool.models import build_model
from vistool.models.checkpoints.files import load_model, read_header, save_model
from vistool.models.checkpoints.start import load_start

EXAMPLE = Path(__file__).parents[1] / "examples" / "make_dataset.py"
SMALL = {
    "backbone": ResNetConfig(stem_channels=8, bottleneck_channels=4),
    "num_heads": 4,
    "feedforward_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_queries": 3,
    "test_short_side": 64,
}


def small_ifc(*class_names: str) -> IFCConfig:
    return IFCConfig(class_names=class_names, hidden_dim=32, **SMALL)  # type: ignore[arg-type]


def small_vistr(*class_names: str) -> VisTRConfig:
    return VisTRConfig(class_names=class_names, hidden_dim=48, clip_length=2, **SMALL)  # type: ignore[arg-type]


def saved(config: ModelConfig, path: Path) -> Path:
    torch.manual_seed(1)
    save_model(build_model(config), path, {})
    return path


@pytest.mark.parametrize("model", [small_ifc, small_vistr])
def test_one_command_turns_weights_into_a_model_for_another_set(model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    weights = saved(model("cat", "red square"), tmp_path / "start.safetensors")
    dataset = make_video(tmp_path, 4)
    run = tmp_path / "run"
    few = ["steps=2", "workers=0", "batch=1", "device=cpu"]
    command(dataset, init=str(weights), validation=dataset, output=run, overrides=few, quiet=True)
    tuned = read_header(run / WEIGHTS).config
    assert tuned.class_names == ("red square", "blue square")
    assert tuned.ids_of_classes() == (3, 4)
    before = model("cat", "red square")
    for setting in ("hidden_dim", "num_queries", "backbone", "clip_length", "test_short_side"):
        assert getattr(tuned, setting) == getattr(before, setting)
    assert (run / BEST).exists()
    load_model(str(run / WEIGHTS))


def test_a_training_from_python_equals_that_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = saved(small_ifc("cat"), tmp_path / "start.safetensors")
    make_pictures(tmp_path / "own", 3).rename(tmp_path / "own" / "train.json")
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = {
        "steps": 5,
        "workers": 0,
        "batch": 1,
        "augment.colour": 0.2,
        "device": "cpu",
    }
    told = []
    made = vistool.train(
        "own/train.json",
        init=weights,
        validation="own/train.json",
        on_step=lambda step, steps, line: told.append((step, steps)),
        **changes,
    )
    assert made == Path("runs/train/train", WEIGHTS)
    assert told == [(step, 5) for step in range(1, 6)]
    assert sum("val_AP" in line for line in lines(made.parent)) == 5
    command(
        Path("own/train.json"),
        init=str(weights),
        validation=Path("own/train.json"),
        output=Path("again"),
        overrides=[f"{name}={value}" for name, value in changes.items()],
        quiet=True,
    )
    assert losses(Path("again")) == losses(made.parent)
    assert started_with(Path("again")) == started_with(made.parent)
    with pytest.raises(UsageError, match="is not empty"):
        vistool.train("own/train.json", output=made.parent)
    with pytest.raises(UsageError, match="frozen_blocks = 9"):
        vistool.train("own/train.json", init=weights, frozen_blocks=9)
    assert not Path("runs/train/train-2").exists()
    with pytest.raises(UsageError, match="unknown setting 'colour'"):
        vistool.train("own/train.json", init=str(weights), colour=1)


def test_the_example_of_training_from_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example with a small model and two steps."""
    saved(small_ifc("cat"), tmp_path / "small.safetensors")
    for name in ("train", "valid"):
        make_pictures(tmp_path / "own", 2).rename(tmp_path / "own" / f"{name}.json")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"vistool": vistool}
    for example in doctest.DocTestParser().get_examples(vistool.train.__doc__ or ""):
        exec(example.source.replace("ifc-lite", "small.safetensors").replace("2000", "2"), found)
    assert found["weights"] == Path("runs/train/train", WEIGHTS)
    assert started_with(Path("runs/train/train")).steps == 2


def test_the_folder_of_the_set_may_be_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = saved(small_ifc("cat"), tmp_path / "start.safetensors")
    (tmp_path / "own").mkdir()
    make_pictures(tmp_path / "own", 2)
    monkeypatch.chdir(tmp_path)
    command(
        Path("own/pictures.json"),
        init=str(weights),
        validation=Path("own/pictures.json"),
        output=tmp_path / "run",
        overrides=["steps=1", "workers=0", "batch=1"],
        quiet=True,
    )
    settings = started_with(tmp_path / "run")
    assert settings.data == str(tmp_path / "own")
    assert settings.validation is not None
    assert settings.validation.annotations == "pictures.json"
    training = json.loads(read_header(tmp_path / "run" / WEIGHTS).metadata["training"])
    assert str(tmp_path) not in json.dumps(training)


def test_the_set_may_be_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = saved(small_ifc("cat"), tmp_path / "start.safetensors")
    (tmp_path / "own").mkdir()
    make_pictures(tmp_path / "own", 2).rename(tmp_path / "own" / "train.json")
    monkeypatch.chdir(tmp_path / "own")
    few = ["steps=1", "workers=0", "batch=1"]
    command(Path(), init=str(weights), overrides=few, quiet=True)
    assert (tmp_path / "own" / "runs" / "train" / "own" / WEIGHTS).exists()


def test_frames_may_lie_anywhere(tmp_path: Path) -> None:
    weights = saved(small_ifc("cat"), tmp_path / "start.safetensors")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "labels").mkdir()
    labels = make_pictures(tmp_path / "pictures", 2).rename(tmp_path / "labels" / "train.json")
    few = ["steps=1", "workers=0", "batch=1"]
    run = tmp_path / "run"
    command(
        labels,
        init=str(weights),
        validation=labels,
        frames=tmp_path / "pictures",
        output=run,
        overrides=few,
        quiet=True,
    )
    assert (run / BEST).exists()
    assert started_with(run).sources[0].frames == str(Path("..", "pictures"))


@pytest.mark.parametrize("model", [small_ifc, small_vistr])
def test_common_classes_keep_their_weights(model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    old, new = model("cat", "dog", "cow"), model("horse", "cow")
    file = saved(old, tmp_path / "start.safetensors")
    given = load_model(str(file)).model.state_dict()
    torch.manual_seed(2)
    network = build_model(new)
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    kept = load_start(network, new, str(file))
    after = network.state_dict()
    last = max(key for key in after if key.startswith("class_head.") and key.endswith("weight"))
    assert kept == [key for key in after if key.startswith(last.removesuffix("weight"))]
    for key in kept:
        torch.testing.assert_close(after[key][0], fresh[key][0])  # horse
        torch.testing.assert_close(after[key][1], given[key][2])  # cow
        torch.testing.assert_close(after[key][2], given[key][3])  # no object
    assert all(torch.equal(after[key], given[key]) for key in after if key not in kept)


def test_a_model_of_another_kind_is_refused_as_init(tmp_path: Path) -> None:
    config = VisTRConfig(**{**SMALL, "pixels": small_ifc("cat").pixels}, class_names=("dog",))  # type: ignore[arg-type]
    file = saved(small_ifc("cat"), tmp_path / "start.safetensors")
    with pytest.raises(WeightsError, match=r"lacks .* tensors"):
        load_start(build_model(config), config, str(file))


def test_a_set_without_categories_or_pictures_is_refused(tmp_path: Path) -> None:
    empty = {"images": [], "annotations": [], "categories": CATEGORIES}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    weights = saved(small_ifc("cat"), tmp_path / "start.safetensors")
    with pytest.raises(DataError, match=r"empty\.json"):
        fine_tuning(tmp_path / "empty.json", str(weights))


def test_a_held_out_set_beside_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="validation goes with a data set"):
        command(tmp_path / "a.toml", validation=tmp_path / "b.json")


def test_the_shipped_weights_have_what_fine_tuning_needs(tmp_path: Path) -> None:
    values = fine_tuning(make_pictures(tmp_path, 1), DEFAULT_INIT)
    config = from_mapping(values, TrainConfig, where="here")
    config.check(processes=1)
    assert config.model_config().backbone == load_model(DEFAULT_INIT).header.config.backbone


def test_clips_show_three_quarters_of_a_picture_as_the_model_sees_it(tmp_path: Path) -> None:
    config = IFCConfig(**{**SMALL, "test_short_side": 256}, class_names=("cat",))  # type: ignore[arg-type]
    weights = saved(config, tmp_path / "start.safetensors")
    values = fine_tuning(make_pictures(tmp_path, 1), str(weights))  # 64 x 96, seen as 256 x 384
    assert values["canvases"] == [[192, 288]]


def test_the_example_makes_a_valid_data_set(tmp_path: Path) -> None:
    make_set = runpy.run_path(str(EXAMPLE))["make_set"]
    path = make_set(tmp_path, "tiny", videos=3, frames=3, size=(60, 80), seed=5)
    dataset = read_dataset(path)
    assert [video.length for video in dataset.videos] == [3, 3, 3]
    assert {track.video_id for track in dataset.tracks} == {1, 2, 3}
    assert all((dataset.frames / n).is_file() for v in dataset.videos for n in v.file_names)
