"""A run's resumable state: tensors in safetensors, everything else in JSON, never pickle.

states/
  step-000012/            arrives whole by rename; the older one goes after that
    state.json            step, metrics so far, identity, optimizer state without its tensors
    tensors.safetensors   trainable parameters, optimizer tensors, random number generators
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aprnb.errors import FileMissing, UsageProblem
from aprnb.tuning.folder import atomic_folder, write_tensors

_TENSOR = "__tensor__"
_FOLDER = re.compile(r"step-(\d+)")


@dataclasses.dataclass(frozen=True)
class Identity:
    """What has to be equal for a state to go on: the recipe's numbers, and fingerprints of data and base."""

    recipe: Mapping[str, Any]
    data: str
    base: str


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run between two optimizer steps. `tensors` are the trainable parameters by name."""

    step: int
    identity: Identity
    metrics: tuple[Mapping[str, Any], ...]
    elapsed_s: float
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    random: Mapping[str, Tensor]


def capture_random(device: torch.device) -> dict[str, Tensor]:
    """The random number generators that a step draws from (dropout)."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random(random: Mapping[str, Tensor], device: torch.device) -> None:
    """Undoes what was drawn since `capture_random`."""
    torch.set_rng_state(random["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], device)


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name; views, not copies."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def restore(state: RunState, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Puts parameters, optimizer and random numbers back as they were after `state.step`."""
    present = trainable_tensors(model)
    if present.keys() != state.tensors.keys():
        odd = sorted(present.keys() ^ state.tensors.keys())[0]
        raise UsageProblem(f"the saved state does not fit the model: {odd}", expected="the same trainable tensors")
    for name, tensor in present.items():
        tensor.copy_(state.tensors[name])
    optimizer.load_state_dict(dict(state.optimizer))
    restore_random(state.random, device)


def save_state(folder: Path, state: RunState) -> Path:
    """Writes `state` as `folder/step-N`, complete or not at all; older ones are removed after it is in place."""
    tensors: dict[str, Tensor] = {}
    for part, values in (("model", state.tensors), ("random", state.random)):
        tensors.update({f"{part}/{name}": tensor for name, tensor in values.items()})
    document = {
        "step": state.step,
        "identity": dataclasses.asdict(state.identity),
        "metrics": list(state.metrics),
        "elapsed_s": state.elapsed_s,
        "optimizer": _without_tensors(state.optimizer, "optimizer", tensors),
    }
    target = folder / f"step-{state.step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target, force=True) as written:
        write_tensors(tensors, written / "tensors.safetensors")
        (written / "state.json").write_text(json.dumps(document) + "\n", "utf-8")
    for other in folder.iterdir():
        if other != target and _FOLDER.fullmatch(other.name):
            shutil.rmtree(other)
    return target


def load_state(folder: Path, identity: Identity) -> RunState:
    """The newest complete state in `folder`.

    Raises FileMissing without one, UsageProblem where recipe, data or base differ from the run that saved it.
    """
    from safetensors.torch import load_file

    states = [path for path in folder.iterdir() if _FOLDER.fullmatch(path.name)] if folder.is_dir() else []
    if not states:
        raise FileMissing(f"no saved state in {folder}", action="start the run without --resume")
    newest = max(states, key=lambda path: int(path.name.removeprefix("step-")))
    document = json.loads((newest / "state.json").read_text("utf-8"))
    saved = Identity(**document["identity"])
    check_identity(saved, identity, str(newest))
    tensors = load_file(newest / "tensors.safetensors")
    return RunState(
        step=document["step"],
        identity=saved,
        metrics=tuple(document["metrics"]),
        elapsed_s=document["elapsed_s"],
        tensors=_part("model/", tensors),
        optimizer=_with_tensors(document["optimizer"], tensors),
        random=_part("random/", tensors),
    )


def check_identity(saved: Identity, present: Identity, where: str) -> None:
    """Raises UsageProblem that names what differs."""
    wanted = json.loads(json.dumps(dict(present.recipe)))
    for name in sorted(saved.recipe.keys() | wanted.keys()):
        if saved.recipe.get(name) != wanted.get(name):
            found = f"--{name.replace('_', '-')} is {wanted.get(name)}; the saved run has {saved.recipe.get(name)}"
            raise UsageProblem(found, where=where, action="resume with the recipe of the saved run, or start a new one")
    for name in ("data", "base"):
        if getattr(saved, name) != getattr(present, name):
            what = {"data": "the training rows", "base": "the base checkpoint"}[name]
            raise UsageProblem(
                f"{what} changed since the state was saved", where=where, action="start a new run (without --resume)"
            )


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors`. Dicts become lists of pairs, since JSON would turn 0 into "0"."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {"pairs": [[key, _without_tensors(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"items": [_without_tensors(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]}
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if "pairs" in value:
        return {key: _with_tensors(item, tensors) for key, item in value["pairs"]}
    return [_with_tensors(item, tensors) for item in value["items"]]
