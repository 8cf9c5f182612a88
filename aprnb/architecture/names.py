"""Which tensor of the file plays which part: Hugging Face and GGUF names brought to the family's canonical ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aprnb.architecture.families import FAMILIES, Family

_LAYER = re.compile(r"(?<=\.)(?:layers|blk)\.(\d{1,6})\.|^(?:layers|blk)\.(\d{1,6})\.")


def layer_of(name: str) -> int | None:
    """`model.layers.7.mlp…` and `blk.7.…` → 7; None outside the layers."""
    match = _LAYER.search(name)
    return int(match.group(1) or match.group(2)) if match else None


def uses_gguf_names(names: Iterable[str]) -> bool:
    return any(name.startswith("blk.") or name == "token_embd.weight" for name in names)


def canonical_name(name: str, family: Family) -> str:
    """The Hugging Face name of a GGUF-named tensor; any other name is returned unchanged."""
    layer = layer_of(name)
    pattern = name if layer is None else name.replace(f"blk.{layer}.", "blk.{layer}.", 1)
    for rule in family.tensors:
        if rule.gguf == pattern:
            return rule.name.format(layer=layer)
    return name


def pattern_of(name: str) -> str:
    """A name with its layer number taken out, to compare with a table."""
    layer = layer_of(name)
    return name if layer is None else re.sub(rf"\b(layers|blk)\.{layer}\.", r"\1.{layer}.", name, count=1)


def families_with(names: Iterable[str]) -> set[str]:
    """The families whose tables hold every one of these tensor names; none may."""
    patterns = {pattern_of(name) for name in names}
    known = {
        family.model_type: {rule.name for rule in family.tensors} | {rule.gguf for rule in family.tensors}
        for family in FAMILIES.values()
    }
    return {model_type for model_type, table in known.items() if patterns <= table}


def foreign_to(names: Iterable[str], family: Family) -> list[str]:
    """The first tensor of each kind that the family's table does not hold."""
    table = {rule.name for rule in family.tensors} | {rule.gguf for rule in family.tensors}
    return list({pattern_of(name): name for name in reversed(list(names)) if pattern_of(name) not in table}.values())
