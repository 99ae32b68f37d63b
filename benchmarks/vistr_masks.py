"""Time saved in a training step of VisTR by computing masks for matched queries only.

    python benchmarks/vistr_masks.py --config configs/vistr-lite.toml --data FOLDER

Forward and backward passes of the same batches are timed in turn with the masks of all queries, and
with only those masks that the loss needs.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import mean

from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.criterion.vistr_criterion import VisTRCriterion
from vistool.data.batches import Batch
from vistool.engine.train.setup import fresh_model, training_batches, training_criterion
from vistool.models.vistr import VisTR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=4)
    args = parser.parse_args()
    values = apply_overrides(load_toml(args.config), [f"data={args.data}", "init=imagenet"])
    config = from_mapping(values, TrainConfig, where=str(args.config))
    model = fresh_model(config, resumes=False).train()
    criterion = training_criterion(model.config, config.loss)
    assert isinstance(model, VisTR)
    assert isinstance(criterion, VisTRCriterion)
    source = training_batches(config, model.config.pixels)
    batches = [source.make(step, range(config.batch)) for step in range(args.batches)]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for batch in [batches[0], *batches]:  # the first warms up
        for matched, measured in seconds.items():
            measured.append(step(model, criterion, batch, matched=matched))
    everything, some = (mean(measured[1:]) for measured in seconds.values())
    instances = sum(len(target.labels) for batch in batches for target in batch.targets)
    queries = model.config.num_queries * config.batch * args.batches
    print(f"{instances} instances, {queries} queries")
    print(
        f"all masks: {everything:.2f} s per step, matched queries only: {some:.2f} s, "
        f"{everything / some:.2f} times faster"
    )


def step(model: VisTR, criterion: VisTRCriterion, batch: Batch, *, matched: bool) -> float:
    """The seconds of one forward and backward pass."""
    begun = time.perf_counter()
    choose = partial(criterion.chosen, targets=batch.targets) if matched else None
    output = model(batch.pixels, batch.padded, auxiliary=True, choose=choose)
    criterion.total(criterion(output, batch.targets)).backward()
    model.zero_grad()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
