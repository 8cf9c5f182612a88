"""Saved states on the disk: tensors in safetensors, everything else in JSON, never pickle.

states/
  step-000012/            written to a temporary folder and renamed; older ones are removed afterwards
    state.json            step, identity, best step, optimizer state without its tensors, SHA-256 of the tensors' file
    tensors.safetensors   trainable parameters, optimizer tensors, random number generators
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aprnb.errors import AprnbError, CheckpointError, FileMissing, OutputExists, UsageProblem
from aprnb.formats.atomic import atomic_folder, failed_to_write, remove_folder
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import file_sha256
from aprnb.tuning.planning.identity import Identity, check_identity
from aprnb.tuning.tensor_files import read_tensors, write_tensors
from aprnb.tuning.training.saving.state import RunState
from aprnb.tuning.training.saving.state_document import (
    DOCUMENT,
    FILES,
    TENSORS,
    damaged,
    from_nodes,
    read_document,
    to_nodes,
)

MAX_TENSOR_BYTES = 1 << 40
KEPT = 2
"""States that are kept besides the best one: one to resume from, and one before it, should that be damaged."""
_SLACK_BYTES = 64 << 20
_FOLDER = re.compile(r"step-([0-9]{6,9})")
_MOST_FOLDERS = 1_000


def save_state(folder: Path, state: RunState, keep: int = KEPT) -> Path:
    """Writes `state` as `folder/step-N`, complete or not at all; the newest `keep` and the best one remain.

    Raises OutputExists where `folder` or `folder/step-N` is a link, or the latter holds files that no run wrote;
    NoSpace where the disk is full.
    """
    tensors: dict[str, Tensor] = {}
    for part, values in (("model", state.tensors), ("random", state.random)):
        tensors.update({f"{part}/{name}": tensor for name, tensor in values.items()})
    optimizer = to_nodes(state.optimizer, "optimizer", lambda path, value: _kept(tensors, path, value))
    if folder.is_symlink():
        raise OutputExists(f"{folder} is a link; nothing is saved there", action="remove the link")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failed_to_write(folder, error) from error
    target = folder / f"step-{state.step:06d}"
    with atomic_folder(target, force=True, known=FILES) as written:
        write_tensors(tensors, written / TENSORS)
        document = {
            "step": state.step,
            "identity": dataclasses.asdict(state.identity),
            "best": state.best,
            "elapsed_s": state.elapsed_s,
            "optimizer": optimizer,
            "tensors_sha256": file_sha256(written / TENSORS),
        }
        (written / DOCUMENT).write_text(json.dumps(document) + "\n", "utf-8")
    remove_older(folder, keep, state)
    return target


def load_state(folder: Path, identity: Identity, most_bytes: int = MAX_TENSOR_BYTES) -> RunState:
    """The newest readable state in `folder` whose tensors take at most `most_bytes`.

    A damaged or incomplete state is passed over for the one before it. Raises FileMissing without a state,
    CheckpointError where all are damaged, UsageProblem where recipe, data or base differ from the run that saved it.
    """
    passed_over: list[AprnbError] = []
    for path, step in _states(folder):
        try:
            found = _load(path, step, identity, most_bytes)
        except (CheckpointError, FileMissing) as error:
            passed_over.append(error)
        else:
            return dataclasses.replace(found, passed_over=tuple(error.found for error in passed_over))
    [newest, *older] = passed_over
    _require_no_longer_run(folder, identity)
    every = newest.found + (f"; so {'are' if older[1:] else 'is'} the {len(older)} before it" if older else "")
    action = "start the run again with --force, without --resume"
    raise CheckpointError(every, expected=newest.expected, where=newest.where, action=action)


def _require_no_longer_run(folder: Path, identity: Identity) -> None:
    """Raises UsageProblem where every state is of a later step than this run has: it was trained on."""
    steps = [step for _, step in _states(folder)]
    if min(steps) > identity.total_steps:
        raise UsageProblem(
            f"the saved run has made {max(steps):,} steps, this one has {identity.total_steps:,}",
            where=str(folder),
            action="give the --epochs or --max-steps that it was trained on with, or start anew with --force",
        )


def most_state_bytes(trainable: int) -> int:
    """A limit for the tensors of a state of so many trained parameters.

    AdamW keeps three float32 for each; random numbers and headers take less than the slack.
    """
    return 16 * trainable + _SLACK_BYTES


def load_step(folder: Path, step: int, most_bytes: int = MAX_TENSOR_BYTES) -> RunState:
    """The state after `step` of a run that was checked to be the present one; raises what `load_state` raises."""
    return _load(folder / f"step-{step:06d}", step, None, most_bytes)


def _load(folder: Path, step: int, identity: Identity | None, most_bytes: int) -> RunState:
    if identity and step > identity.total_steps:
        expected = f"at most step {identity.total_steps:,}"
        raise CheckpointError(f"{folder} is after the run's last step", expected=expected)
    document = read_document(safe_path(folder, DOCUMENT), step)
    if identity:
        check_identity(document.identity, identity, step, str(folder))
    path = safe_path(folder, TENSORS)
    tensors = read_tensors(path, most_bytes)
    if file_sha256(path) != document.tensors_sha256:
        raise damaged(f"{path} has other bytes than were written")
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
        best=document.best,
        elapsed_s=document.elapsed_s,
        tensors=_part("model/", tensors),
        optimizer=optimizer,
        random=_part("random/", tensors),
    )


def saved_steps(folder: Path) -> tuple[int, ...]:
    """The steps of the states in `folder`, in order; none where there is no such folder."""
    return tuple(sorted(_own_folders(folder)))


def _states(folder: Path) -> Iterator[tuple[Path, int]]:
    """The states' folders, the newest first; raises where the folder contains anything else."""
    if folder.is_symlink() or not folder.is_dir():
        raise _no_state(folder)
    try:
        inside = list(islice(folder.iterdir(), _MOST_FOLDERS + 1))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
    if len(inside) > _MOST_FOLDERS:
        raise CheckpointError(f"{folder} contains more than {_MOST_FOLDERS:,} entries", expected="a few saved states")
    steps: dict[int, Path] = {}
    for path in inside:
        found = _FOLDER.fullmatch(path.name)
        if path.name.startswith(".aprnb-"):  # left by a process that was killed while it wrote
            continue
        if found is None or path.is_symlink() or not path.is_dir() or path.name != f"step-{int(found[1]):06d}":
            raise CheckpointError(f"{path} is not a saved state", expected="folders step-N only", action="move it away")
        steps[int(found[1])] = path
    if not steps:
        raise _no_state(folder)
    yield from ((steps[step], step) for step in sorted(steps, reverse=True))


def _no_state(folder: Path) -> FileMissing:
    return FileMissing(f"no saved state in {folder}", action="start the run again with --force, without --resume")


def _own_folders(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    named = ((_FOLDER.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(found[1]): path for found, path in named if found and path.is_dir() and not path.is_symlink()}


def remove_older(folder: Path, keep: int, state: RunState) -> None:
    """Removes what is older than the last `keep` states up to `state`, but for the best one.

    A newer one was passed over as damaged, so it does not count. A folder that contains anything else remains.
    """
    folders = _own_folders(folder)
    steps = [step for step in sorted(folders) if step <= state.step]
    for step in {*steps[:-keep]} - {state.best[0] if state.best else None}:
        try:
            remove_folder(folders[step], FILES)
        except OutputExists:
            continue


def _kept(tensors: dict[str, Tensor], path: str, value: Any) -> bool:
    if isinstance(value, Tensor):
        tensors[path] = value
    return isinstance(value, Tensor)


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
