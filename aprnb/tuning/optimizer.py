"""Optimizer and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from aprnb.errors import CheckpointError, UsageProblem
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


def check_optimizer_state(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """Compares a saved state dict with what `optimizer` would write; raises CheckpointError where it differs.

    Groups must be equal but for the learning rate, which every step sets. A tensor has its parameter's shape; of the
    8-bit optimizers one may also be a table or a list of block scales.
    """
    present = optimizer.state_dict()
    if not isinstance(saved, Mapping) or saved.keys() != present.keys():
        raise _misfit("has no optimizer's state")
    if _settings(saved["param_groups"]) != _settings(present["param_groups"]):
        raise _misfit("has an optimizer with other settings")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(saved["state"], Mapping):
        raise _misfit("has no optimizer's state")
    names = _ADAMW if isinstance(optimizer, torch.optim.AdamW) else None
    for number, values in saved["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(values, Mapping):
            raise _misfit("has an optimizer with other parameters")
        if names is not None and values.keys() != names:
            raise _misfit(f"has an optimizer that keeps {', '.join(map(str, values))[:80]}")
        for name, value in values.items():
            if not _fits(value, parameters[number], exactly=names is not None and name != "step"):
                raise _misfit(f"has an optimizer whose {str(name)[:40]} does not fit parameter {number}")


_ADAMW = {"step", "exp_avg", "exp_avg_sq"}


def _misfit(found: str) -> CheckpointError:
    return CheckpointError(f"the saved state {found}", action="start the run without --resume")


def _settings(groups: Any) -> Any:
    """The groups without their learning rates, tuples as the lists that JSON makes of them."""
    if isinstance(groups, Mapping):
        return {key: _settings(value) for key, value in groups.items() if key != "lr"}
    return [_settings(value) for value in groups] if isinstance(groups, list | tuple) else groups


def _fits(value: Any, parameter: nn.Parameter, exactly: bool) -> bool:
    if not isinstance(value, torch.Tensor):
        return not exactly and isinstance(value, int | float)
    if exactly:
        return value.shape == parameter.shape and value.dtype == parameter.dtype
    return value.shape == parameter.shape or (value.ndim <= 1 and value.numel() <= max(256, parameter.numel()))
