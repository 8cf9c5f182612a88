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
from aprnb.tuning.training.events import EVAL_ROW, STEP_ROW

DOCUMENT, TENSORS = "state.json", "tensors.safetensors"
FILES = (DOCUMENT, TENSORS)
"""The files of a saved state."""
_MOST_KEY = 100
"""Characters of a key; each node's path holds those of all nodes above it."""
_LARGEST = 1e39
"""Beyond every float32, which the numbers of a run are."""
MAX_STATE_JSON_BYTES, MAX_STATE_VALUES = 256 << 20, 1 << 24
"""A row of metrics takes some 200 bytes and 33 values: room for 500,000 steps."""
_KEYS = {"step", "identity", "metrics", "elapsed_s", "optimizer"}
_DEEPEST, _MOST_NUMBER = 12, 1 << 32
TENSOR = "__tensor__"


@dataclasses.dataclass(frozen=True)
class StateDocument:
    """`state.json`, checked; `optimizer` is still a tree of nodes."""

    step: int
    identity: Identity
    metrics: tuple[Mapping[str, Any], ...]
    elapsed_s: float
    optimizer: Any


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
    identity, rows = document["identity"], document["metrics"]
    require(_is_identity(identity), "has no identity", "recipe, data and base")
    require(
        isinstance(rows, list) and all(_is_row(row, step) for row in rows), "has malformed metrics", "rows of numbers"
    )
    return StateDocument(step, Identity(**identity), tuple(rows), float(document["elapsed_s"]), document["optimizer"])


def damaged(found: str, expected: str | None = None) -> CheckpointError:
    """The error for a saved state that cannot be resumed; `found` says why."""
    action = "start the run without --resume (add --force to replace the run's folder)"
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
        and value.keys() == {"recipe", "data", "base"}
        and isinstance(value["recipe"], dict)
        and isinstance(value["data"], str)
        and isinstance(value["base"], str)
    )


def _is_row(row: Any, step: int) -> bool:
    """A row of `metrics.jsonl`, of a step that is not after the state's own."""
    if not isinstance(row, dict) or row.keys() not in (set(STEP_ROW), set(EVAL_ROW)):
        return False
    whole = [row[name] for name in ("step", "tokens", "labelled_tokens") if name in row]
    if not all(map(_is_number, row.values())) or not all(type(number) is int and number >= 0 for number in whole):
        return False
    return bool(row["step"] <= step and row.get("tokens_per_s", 1) > 0)


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (int, str):
        return False
    return len(pair[0]) <= _MOST_KEY if isinstance(pair[0], str) else 0 <= pair[0] < _MOST_NUMBER
