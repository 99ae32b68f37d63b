"""Learning rates of the parts of a model, and their schedule over the steps."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

from vistool.config import TrainConfig
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR


def parameter_groups(model: IFC | VisTR, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameter groups for the optimizer: the backbone and the rest, as in both papers.

    `peak` is a group's rate before `rate_factor`. Weight decay also applies to biases and norms (as
    published).
    """
    own = {id(p) for p in model.backbone.parameters()}
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    rest = [p for p in model.parameters() if id(p) not in own]
    return [
        {"params": rest, "lr": config.learning_rate, "peak": config.learning_rate},
        {"params": backbone, "lr": config.backbone_rate, "peak": config.backbone_rate},
    ]


def rate_factor(config: TrainConfig, step: int) -> float:
    """The factor of all rates in step number `step`, counted from 0.

    It is the factor of the schedule times that of the warm-up, a linear rise over the first steps.

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
    """Set the rate of every group. Returns: the rate of all parts except the backbone."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(config, step)
    rate: float = optimizer.param_groups[0]["lr"]
    return rate
