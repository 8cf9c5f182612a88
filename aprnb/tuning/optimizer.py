"""Optimizer and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from aprnb.errors import UsageProblem
from aprnb.tuning.recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over what requires a gradient; matrices decay, norms and biases do not.

    Raises UsageProblem where the device has not got the optimizer that was asked for.
    """
    name = check_optimizer(recipe.optimizer, device.type)
    groups = decay_groups(model.named_parameters(), recipe.weight_decay)
    rate = recipe.learning_rate
    if rate is None:
        raise ValueError("the recipe is not settled: learning_rate")
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    build: Any = {"adamw8bit": AdamW8bit, "paged_adamw8bit": PagedAdamW8bit}[name]
    optimizer: torch.optim.Optimizer = build(groups, lr=rate)
    return optimizer


def check_optimizer(name: str, device_type: str) -> str:
    """The optimizer's name, `auto` settled to adamw; refuses the 8-bit ones where no CUDA device runs them."""
    if name in ("adamw8bit", "paged_adamw8bit") and device_type != "cuda":
        raise UsageProblem(
            f"--optimizer {name} on {device_type}", expected="a CUDA device", action="use --optimizer adamw"
        )  # fmt: skip
    return "adamw" if name == "auto" else name


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for torch: trainable matrices with the decay, trainable vectors without."""
    trainable = [parameter for _, parameter in named if parameter.requires_grad]
    groups = [
        {"params": [one for one in trainable if one.ndim >= 2], "weight_decay": weight_decay},
        {"params": [one for one in trainable if one.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """The rate of optimizer step `step` (1 to `steps`): linear warm-up, then a cosine that ends just above 0."""
    warmup = math.ceil(warmup_ratio * steps)
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup - 1) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
