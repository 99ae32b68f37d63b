"""How fast every part of a model learns, from step to step."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

from vistool.config import TrainConfig
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR


def parameter_groups(model: IFC | VisTR, config: TrainConfig) -> list[dict[str, Any]]:
    """Backbone and the rest, each with its rate, as both papers have it; `peak` is that rate.

    Weights decay everywhere, biases and norms included (as published).
    """
    own = {id(p) for p in model.backbone.parameters()}
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    rest = [p for p in model.parameters() if id(p) not in own]
    return [
        {"params": rest, "lr": config.learning_rate, "peak": config.learning_rate},
        {"params": backbone, "lr": config.backbone_rate, "peak": config.backbone_rate},
    ]


def rate_factor(config: TrainConfig, step: int) -> float:
    """What the rates are multiplied by in step number `step`, counted from 0.

    An even rise over the first steps, on top of the schedule.

    >>> from vistool.config import TrainConfig
    >>> plan = dict(classes={}, sources=(), steps=8, warmup_steps=2, schedule="step")
    >>> papers = TrainConfig(**plan, milestones=(4, 6), gamma=0.5)
    >>> [rate_factor(papers, step) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    risen = min(1.0, (step + 1) / max(1, config.warmup_steps))
    warm = config.warmup_factor + (1 - config.warmup_factor) * risen
    match config.schedule:
        case "constant":
            return warm
        case "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        case "step":
            return warm * config.gamma ** sum(step >= milestone for milestone in config.milestones)


def set_rates(optimizer: Optimizer, config: TrainConfig, step: int) -> float:
    """Give every group its rate; returns the one of all but the backbone."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(config, step)
    rate: float = optimizer.param_groups[0]["lr"]
    return rate
