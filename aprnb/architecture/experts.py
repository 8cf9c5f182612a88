"""Experts in files and in modules: files have a matrix for each expert, modules one stacked tensor for all.

`transformers` 5 stacks them while it loads (its conversion mapping): gate and up on top of each other as
`experts.gate_up_proj` [experts, 2 · intermediate, hidden], down as `experts.down_proj`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = dict[str, tuple[int, ...]]

_EXPERT = re.compile(r"(?P<front>.*)\.(?:mlp|block_sparse_moe)\.experts\.(?P<expert>\d+)\.(?P<part>\w+)\.weight")
_ROUTER = ".block_sparse_moe.gate.weight"
_STACKED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "w1": "gate_up_proj", "w3": "gate_up_proj",
            "down_proj": "down_proj", "w2": "down_proj"}  # fmt: skip


def module_shapes(expected: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Names and shapes of a file's weights as the module holds them; the same where there are no experts."""
    found: Shapes = {}
    experts: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in expected.items():
        stacked = stacked_name(name)
        if stacked:
            experts.setdefault(stacked, []).append(shape)
        else:
            found[router_name(name)] = shape
    for name, shapes in experts.items():
        rows, columns = shapes[0]
        both = 2 if name.endswith("gate_up_proj") else 1
        found[name] = (len(shapes) // both, both * rows, columns)
    return found


def stacked_name(name: str) -> str | None:
    """The module's name of the tensor that holds the expert's weight `name`; None for any other weight."""
    match = _EXPERT.fullmatch(name)
    return f"{match['front']}.mlp.experts.{_STACKED[match['part']]}" if match else None


def router_name(name: str) -> str:
    """The module's name of the weight `name` if it is a router, else `name`."""
    return name.replace(_ROUTER, ".mlp.gate.weight")


def from_module(weights: Mapping[str, Any], name: str) -> Any:
    """A file's weight from the module's weights: an expert's matrix is a slice of the stacked tensor."""
    match, stacked = _EXPERT.fullmatch(name), stacked_name(name)
    if not match or not stacked:
        return weights[router_name(name)]
    return rows_of(weights[stacked][int(match["expert"])], name)


def rows_of(matrix: Any, name: str) -> Any:
    """The rows of an expert's stacked matrix that are its weight `name`: gate is the upper half, up the lower."""
    part = name.split(".")[-2]
    if _STACKED[part] == "down_proj":
        return matrix
    rows = matrix.shape[0] // 2
    return matrix[:rows] if part in ("gate_proj", "w1") else matrix[rows:]
