"""The JSON half of a saved state, typed: a malicious or damaged file raises CheckpointError (no torch).

An optimizer's state dict is written as nested nodes: `{"pairs": [[key, node], …]}` for a dict (JSON would turn the key
0 into "0"), `{"items": [node, …]}` for a list, `{"__tensor__": path}` for a tensor of the safetensors file, which has
the node's own path as its name, else a scalar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.json_files import read_object
from aprnb.tuning.planning.identity import Identity

DOCUMENT, TENSORS = "state.json", "tensors.safetensors"
FILES = (DOCUMENT, TENSORS)
"""The files of a saved state."""
_MOST_KEY = 100
"""Characters of a key; each node's path holds those of all nodes above it."""
_LARGEST = 1e39
"""Beyond every float32, which the numbers of a run are."""
MAX_STATE_JSON_BYTES, MAX_STATE_VALUES = 64 << 20, 1 << 21
"""An optimizer's tree has some ten values for each trained tensor."""
_KEYS = {"step", "identity", "best", "elapsed_s", "optimizer", "tensors_sha256"}
_DEEPEST, _MOST_NUMBER = 12, 1 << 32
TENSOR = "__tensor__"


@dataclasses.dataclass(frozen=True)
class StateDocument:
    """`state.json`, checked; `optimizer` is still a tree of nodes."""

    step: int
    identity: Identity
    best: tuple[int, float] | None
    elapsed_s: float
    optimizer: Any
    tensors_sha256: str


def read_document(path: Path, step: int) -> StateDocument:
    """The document at `path`, of step `step`; raises FileMissing or CheckpointError."""
    document = read_object(path, MAX_STATE_JSON_BYTES, MAX_STATE_VALUES)

    def require(holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise damaged(f"{path} {found}", expected)

    require(document.keys() == _KEYS, f"has the keys {', '.join(map(str, document))[:200]}", ", ".join(sorted(_KEYS)))
    require(
        type(document["step"]) is int and document["step"] == step,
        f"is of step {str(document['step'])[:40]}",
        f"{step}",
    )
    require(_is_number(document["elapsed_s"]) and document["elapsed_s"] >= 0, "has no elapsed_s", "seconds")
    identity, best = document["identity"], document["best"]
    require(_is_identity(identity), "has no identity", "recipe, data, base and steps")
    require(best is None or _is_best(best, step), "has a malformed best", "a step and its held-out loss, or null")
    digest = document["tensors_sha256"]
    require(isinstance(digest, str) and len(digest) == 64, "has no tensors_sha256", "64 hexadecimal digits")
    return StateDocument(
        step=step,
        identity=Identity(**identity),
        best=None if best is None else (best[0], float(best[1])),
        elapsed_s=float(document["elapsed_s"]),
        optimizer=document["optimizer"],
        tensors_sha256=digest,
    )


def damaged(found: str, expected: str | None = None) -> CheckpointError:
    """The error for a saved state that cannot be resumed; `found` says why."""
    action = "start the run again with --force, without --resume"
    return CheckpointError(f"the saved state {found}", expected=expected, action=action)


def to_nodes(value: Any, path: str, keep: Callable[[str, Any], bool]) -> Any:
    """`value` as nodes; `keep(path, value)` stores a tensor elsewhere and returns true, else false."""
    if keep(path, value):
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {"pairs": [[key, to_nodes(item, f"{path}/{key}", keep)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"items": [to_nodes(item, f"{path}/{number}", keep) for number, item in enumerate(value)]}
    return value


def from_nodes(node: Any, path: str, tensors: dict[str, Any]) -> Any:
    """The value of the node at `path`; its tensors are removed from `tensors`.

    Raises CheckpointError for anything that is not a node.
    """
    if not isinstance(node, dict | list):
        return node
    [(kind, inner), *more] = node.items() if isinstance(node, dict) and node else [("nothing", None)]
    if not more and kind == TENSOR and inner == path and path in tensors:
        return tensors.pop(path)
    if more or path.count("/") > _DEEPEST or not isinstance(inner, list):
        raise _not_a_node(path, kind)
    if kind == "items":
        return [from_nodes(item, f"{path}/{number}", tensors) for number, item in enumerate(inner)]
    if kind == "pairs" and all(map(_is_pair, inner)) and len({key for key, _ in inner}) == len(inner):
        return {key: from_nodes(item, f"{path}/{key}", tensors) for key, item in inner}
    raise _not_a_node(path, kind)


def _not_a_node(path: str, kind: str) -> CheckpointError:
    return damaged(f"contains {kind[:40]} at {path[:80]}", "pairs, items or a tensor")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_identity(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"recipe", "data", "base", "total_steps"}
        and isinstance(value["recipe"], dict)
        and isinstance(value["data"], str)
        and isinstance(value["base"], str)
        and type(value["total_steps"]) is int
    )


def _is_best(best: Any, step: int) -> bool:
    """A pair of a step, not after the state's own, and the loss on the held-out rows."""
    return (
        isinstance(best, list)
        and len(best) == 2
        and _is_number(best[1])
        and type(best[0]) is int
        and 0 <= best[0] <= step
    )


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (int, str):
        return False
    return len(pair[0]) <= _MOST_KEY if isinstance(pair[0], str) else 0 <= pair[0] < _MOST_NUMBER
