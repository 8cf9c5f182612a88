"""Optimizer and learning rate."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.planning.settle import require_optimizer
from aprnb.tuning.training.saving.state_document import damaged

WSD_DECAY = 0.2


def build_optimizer(model: nn.Module, recipe: SettledRecipe, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over what requires a gradient; matrices decay, norms and biases do not.

    Raises UsageProblem for an optimizer that does not run on the device.
    """
    require_optimizer(recipe.optimizer, device.type)
    groups = decay_groups(model.named_parameters(), recipe.weight_decay)
    if recipe.optimizer == "adamw":
        # fused: one pass over parameters, gradients and moments, on a CPU too.
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    build: Any = {"adamw8bit": AdamW8bit, "paged_adamw8bit": PagedAdamW8bit}[recipe.optimizer]
    optimizer: torch.optim.Optimizer = build(groups, lr=recipe.learning_rate)
    return optimizer


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for torch: trainable matrices with the decay, trainable vectors without."""
    trainable = [parameter for _, parameter in named if parameter.requires_grad]
    groups = [
        {"params": [one for one in trainable if one.ndim >= 2], "weight_decay": weight_decay},
        {"params": [one for one in trainable if one.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float, schedule: str = "cosine") -> float:
    """The rate of optimizer step `step` (1 to `total_steps`): linear warm-up, then what `schedule` says.

    "cosine" and "linear" fall to just above 0, "constant" stays, "wsd" (warm-up, stable, decay) stays and falls over
    the last fifth of all steps as 1 - √progress (Hägele et al. 2024).
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup - 1) / max(1, total_steps - warmup)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * (1 - progress)
    if schedule == "wsd":
        decay = min(math.ceil(WSD_DECAY * total_steps), total_steps - warmup)
        return peak * (1 - math.sqrt(max(0, step - 1 - (total_steps - decay)) / decay))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def check_optimizer_state(optimizer: torch.optim.Optimizer, saved: Any, step: int) -> None:
    """Compares a state dict saved after `step` steps with what `optimizer` would write after as many.

    Groups must be equal but for the learning rate, which every step sets. Every parameter has exactly the tensors of
    its optimizer, with their dtypes, shapes and counts of steps. Raises CheckpointError where something differs.
    """
    present = optimizer.state_dict()
    if not isinstance(saved, Mapping) or saved.keys() != present.keys():
        raise damaged("has no optimizer state")
    if _settings(saved["param_groups"]) != _settings(present["param_groups"]):
        raise damaged("has an optimizer with other settings")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = saved["state"]
    if not isinstance(states, Mapping) or states.keys() != set(range(len(parameters) if step else 0)):
        raise damaged("has an optimizer with other parameters")
    for number, values in states.items():
        wrong = _misfit_of(optimizer, parameters[number], values, step)
        if wrong:
            raise damaged(f"has an optimizer whose {wrong[:80]} does not fit parameter {number}")


_WRAPPED = "__bnb_optimizer_quant_state__"
"""Under this key bitsandbytes writes the tensors of a parameter's state (`Optimizer8bit.state_dict`)."""
_BLOCK = 256
"""Elements that share a scale in bitsandbytes' 8-bit states; their codes index tables of as many values."""
_TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}
"""Name in a parameter's state → name of the optimizer's table."""
_NOT_NEGATIVE = {"exp_avg_sq", "state2", "absmax1", "absmax2"}


def _settings(groups: Any) -> Any:
    """The groups' values as JSON: tuples are lists, 1 is not true; of learning rates, whether they are numbers."""
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        return None
    return [
        {
            key: type(value) in (int, float) if key == "lr" else json.dumps(value, default=str)
            for key, value in group.items()
        }
        for group in groups
    ]


def _misfit_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, values: Any, step: int) -> str | None:
    """The name of the value in a parameter's state that `optimizer` would not have after `step` steps, or None."""
    if not isinstance(values, Mapping):
        return "state"
    inner = values.get(_WRAPPED)
    values = {**values, **inner} if isinstance(inner, Mapping) else dict(values)
    values.pop(_WRAPPED, None)
    tensors, count = _layout(optimizer, parameter), values.pop("step", None)
    if isinstance(optimizer, torch.optim.AdamW):
        counted = _is_like(count, torch.float32, ()) and count.item() == step
    else:
        counted = type(count) is int and count == step
    if not counted:
        return "step"
    if values.keys() != tensors.keys():
        return ", ".join(map(str, values.keys() ^ tensors.keys()))
    for name, (dtype, shape) in tensors.items():
        if not _is_like(values[name], dtype, shape) or (name in _NOT_NEGATIVE and bool((values[name] < 0).any())):
            return name
    tables = getattr(optimizer, "name2qmap", {})
    wrong = [name for name, table in _TABLES.items() if name in values and not _equal(values[name], tables[table])]
    return wrong[0] if wrong else None


def _layout(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of each tensor that `optimizer` keeps for `parameter`, its count of steps left out."""
    shape, elements = tuple(parameter.shape), parameter.numel()
    if isinstance(optimizer, torch.optim.AdamW):
        return dict.fromkeys(("exp_avg", "exp_avg_sq"), (parameter.dtype, shape))
    if elements < optimizer.args.min_8bit_size:  # type: ignore[attr-defined]  # bitsandbytes has no types
        return dict.fromkeys(("state1", "state2"), (torch.float32, shape))
    return {
        **dict.fromkeys(("state1", "state2"), (torch.uint8, shape)),
        **dict.fromkeys(("qmap1", "qmap2"), (torch.float32, (_BLOCK,))),
        **dict.fromkeys(("absmax1", "absmax2"), (torch.float32, (math.ceil(elements / _BLOCK),))),
    }


def _is_like(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == dtype and tuple(value.shape) == shape


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.cpu(), other.cpu())
