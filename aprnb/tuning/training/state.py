"""A run's resumable state: tensors in safetensors, everything else in JSON, never pickle.

state/
  step-000012/            written to a temporary folder and renamed; older ones are removed afterwards
    state.json            step, metrics so far, identity, optimizer state without its tensors
    tensors.safetensors   trainable parameters, optimizer tensors, random number generators
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aprnb.errors import CheckpointError, FileMissing, OutputExists, UsageProblem
from aprnb.formats.atomic import atomic_folder, failed_to_write, remove_folder
from aprnb.formats.sidecar_files import safe_path
from aprnb.tuning.planning.identity import Identity, check_identity
from aprnb.tuning.tensor_files import read_tensors, write_tensors
from aprnb.tuning.training.optimizer import check_optimizer_state
from aprnb.tuning.training.state_document import (
    DOCUMENT,
    FILES,
    TENSORS,
    damaged,
    from_nodes,
    read_document,
    to_nodes,
)

MAX_TENSOR_BYTES = 1 << 40
_FOLDER = re.compile(r"step-([0-9]{6,9})")
_MOST_FOLDERS = 1_000


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
    if present.keys() != state.tensors.keys():
        odd = sorted(present.keys() ^ state.tensors.keys())[0]
        raise UsageProblem(f"the saved state does not fit the model: {odd}", expected="the same trainable tensors")
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
    for name, tensor in present.items():
        tensor.copy_(state.tensors[name])


def save_state(folder: Path, state: RunState) -> Path:
    """Writes `state` as `folder/step-N`, complete or not at all; older ones are removed afterwards.

    Raises OutputExists where `folder` or `folder/step-N` is a link, or the latter holds files that no run wrote.
    """
    tensors: dict[str, Tensor] = {}
    for part, values in (("model", state.tensors), ("random", state.random)):
        tensors.update({f"{part}/{name}": tensor for name, tensor in values.items()})
    document = {
        "step": state.step,
        "identity": dataclasses.asdict(state.identity),
        "metrics": list(state.metrics),
        "elapsed_s": state.elapsed_s,
        "optimizer": to_nodes(state.optimizer, "optimizer", lambda path, value: _kept(tensors, path, value)),
    }
    if folder.is_symlink():
        raise OutputExists(f"{folder} is a link; nothing is saved there", action="remove the link")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failed_to_write(folder, error) from error
    target = folder / f"step-{state.step:06d}"
    with atomic_folder(target, force=True, known=FILES) as written:
        write_tensors(tensors, written / TENSORS)
        (written / DOCUMENT).write_text(json.dumps(document) + "\n", "utf-8")
    for other in folder.iterdir():
        if other != target and _FOLDER.fullmatch(other.name) and other.is_dir() and not other.is_symlink():
            _remove_own(other)
    return target


def load_state(
    folder: Path, identity: Identity, most_bytes: int = MAX_TENSOR_BYTES, total_steps: int | None = None
) -> RunState:
    """The newest state in `folder`, of a run of `total_steps` whose tensors take at most `most_bytes`.

    Raises FileMissing without one, CheckpointError for what is damaged or not a state, UsageProblem where recipe, data
    or base differ from the run that saved it.
    """
    newest, step = _newest(folder)
    if total_steps is not None and step > total_steps:
        raise CheckpointError(f"{newest} is after the run's last step", expected=f"at most step {total_steps:,}")
    document = read_document(safe_path(newest, DOCUMENT), step)
    check_identity(document.identity, identity, str(newest))
    tensors = read_tensors(safe_path(newest, TENSORS), most_bytes)
    for name, tensor in tensors.items():
        if not name.startswith(("model/", "optimizer/", "random/")):
            raise damaged(f"contains a tensor {name[:80]}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise damaged(f"contains NaN or infinity in {name}")
    optimizer = from_nodes(document.optimizer, "optimizer", unnamed := dict(tensors))
    odd = next((name for name in unnamed if name.startswith("optimizer/")), None)
    if odd is not None:
        raise damaged(f"contains a tensor {odd[:80]} that is not in its optimizer")
    return RunState(
        step=step,
        identity=document.identity,
        metrics=document.metrics,
        elapsed_s=document.elapsed_s,
        tensors=_part("model/", tensors),
        optimizer=optimizer,
        random=_part("random/", tensors),
    )


def _newest(folder: Path) -> tuple[Path, int]:
    """The state's folder with the highest step; raises where the folder contains anything else."""
    if folder.is_symlink() or not folder.is_dir():
        raise FileMissing(f"no saved state in {folder}", action="start the run again with --force, without --resume")
    try:
        inside = list(islice(folder.iterdir(), _MOST_FOLDERS + 1))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
    if len(inside) > _MOST_FOLDERS:
        raise CheckpointError(
            f"{folder} contains more than {_MOST_FOLDERS:,} entries", expected="one or two saved states"
        )
    steps: dict[int, Path] = {}
    for path in inside:
        found = _FOLDER.fullmatch(path.name)
        if path.name.startswith(".aprnb-"):  # left by a process that was killed while it wrote
            continue
        if found is None or path.is_symlink() or not path.is_dir() or path.name != f"step-{int(found[1]):06d}":
            raise CheckpointError(f"{path} is not a saved state", expected="folders step-N only", action="move it away")
        steps[int(found[1])] = path
    if not steps:
        raise FileMissing(f"no saved state in {folder}", action="start the run again with --force, without --resume")
    return steps[max(steps)], max(steps)


def _require_like(found: Tensor, wanted: Tensor, name: str) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise damaged(f"has {name} as {found.dtype} {list(found.shape)}, not {wanted.dtype} {list(wanted.shape)}")


def _remove_own(folder: Path) -> None:
    """Removes an older state unless its folder contains anything else."""
    try:
        remove_folder(folder, FILES)
    except OutputExists:
        return


def _kept(tensors: dict[str, Tensor], path: str, value: Any) -> bool:
    if isinstance(value, Tensor):
        tensors[path] = value
    return isinstance(value, Tensor)


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
