"""A run's resumable state: captured from the model and its optimizer, and restored into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aprnb.errors import UsageProblem
from aprnb.tuning.planning.identity import Identity
from aprnb.tuning.training.optimizer import check_optimizer_state
from aprnb.tuning.training.saving.state_document import damaged


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run between two optimizer steps.

    `tensors` are the trainable parameters by name, `best` is the step with the lowest held-out loss, and that loss.
    `passed_over` names newer states that could not be read.
    """

    step: int
    identity: Identity
    best: tuple[int, float] | None
    elapsed_s: float
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    random: Mapping[str, Tensor]
    passed_over: tuple[str, ...] = ()


def capture_random(device: torch.device) -> dict[str, Tensor]:
    """The random number generators that a step draws from (dropout)."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random(random: Mapping[str, Tensor], device: torch.device) -> None:
    """Sets the generators back to a state of `capture_random`."""
    torch.set_rng_state(random["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], device)


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name; views, not copies."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def restore(state: RunState, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Restores parameters, optimizer and random numbers as they were after `state.step`.

    Raises UsageProblem for a state of another model, CheckpointError for one that is damaged; then nothing is changed.
    """
    present, random = trainable_tensors(model), capture_random(device)
    _require_same_names(present, state)
    if random.keys() != state.random.keys():
        raise UsageProblem(f"the saved state is from a device other than {device}", action="resume on the same device")
    for part, wanted, found in (("", present, state.tensors), ("random numbers ", random, state.random)):
        for name, tensor in wanted.items():
            _require_like(found[name], tensor, f"{part}{name}")
    check_optimizer_state(optimizer, state.optimizer, state.step)
    try:
        restore_random(state.random, device)
        optimizer.load_state_dict(dict(state.optimizer))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        restore_random(random, device)
        raise damaged(f"cannot be restored: {error}") from None
    _copy(state, present)


def restore_weights(state: RunState, model: nn.Module) -> None:
    """Restores the parameters alone, as `restore` does."""
    present = trainable_tensors(model)
    _require_same_names(present, state)
    for name, tensor in present.items():
        _require_like(state.tensors[name], tensor, name)
    _copy(state, present)


def _copy(state: RunState, present: Mapping[str, Tensor]) -> None:
    for name, tensor in present.items():
        tensor.copy_(state.tensors[name])


def _require_same_names(present: Mapping[str, Tensor], state: RunState) -> None:
    if present.keys() != state.tensors.keys():
        odd = sorted(present.keys() ^ state.tensors.keys())[0]
        raise UsageProblem(f"the saved state does not fit the model: {odd}", expected="the same trainable tensors")


def _require_like(found: Tensor, wanted: Tensor, name: str) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise damaged(f"has {name} as {found.dtype} {list(found.shape)}, not {wanted.dtype} {list(wanted.shape)}")
