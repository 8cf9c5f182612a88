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
        match = _EXPERT.fullmatch(name)
        if match:
            stacked = f"{match['front']}.mlp.experts.{_STACKED[match['part']]}"
            experts.setdefault(stacked, []).append(shape)
        else:
            found[name.replace(_ROUTER, ".mlp.gate.weight")] = shape
    for name, shapes in experts.items():
        rows, columns = shapes[0]
        both = 2 if name.endswith("gate_up_proj") else 1
        found[name] = (len(shapes) // both, both * rows, columns)
    return found


def from_module(weights: Mapping[str, Any], name: str) -> Any:
    """A file's weight from the module's weights: an expert's matrix is a slice of the stacked tensor."""
    match = _EXPERT.fullmatch(name)
    if not match:
        return weights[name.replace(_ROUTER, ".mlp.gate.weight")]
    stacked = _STACKED[match["part"]]
    matrix = weights[f"{match['front']}.mlp.experts.{stacked}"][int(match["expert"])]
    if stacked == "down_proj":
        return matrix
    rows = matrix.shape[0] // 2
    return matrix[:rows] if match["part"] in ("gate_proj", "w1") else matrix[rows:]
