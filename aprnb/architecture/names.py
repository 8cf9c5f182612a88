"""Maps the names of tensors in files to the family's canonical names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from aprnb.architecture.families import FAMILIES, Family

_NUMBER = "(0|[1-9][0-9]{0,5})"
"""ASCII digits without leading zeros: a layer has one name, so that the tables and GGUF's names find the same one."""
_LONGEST = 512
"""Characters of a name that may be one of a table; longer ones are not searched."""
_WRAPPERS = ("_orig_mod.", "module.", "language_model.")
"""What `torch.compile`, data parallelism and models with a vision tower put into names, not always in front."""
_PREFIXES = 4
_LAYER = re.compile(rf"(?:^|\.)(?:layers|blk|h)\.{_NUMBER}\.")
_EXPERT = re.compile(rf"(?<=\.experts\.){_NUMBER}(?=\.)")


def layer_of(name: str) -> int | None:
    """`model.layers.7.mlp…` and `blk.7.…` → 7; None outside the layers."""
    match = _LAYER.search(name, 0, _LONGEST)
    return int(match.group(1)) if match else None


def expert_of(name: str) -> int | None:
    match = _EXPERT.search(name, 0, _LONGEST)
    return int(match.group(1)) if match else None


def pattern_of(name: str) -> str:
    """A name with placeholders for the numbers of layer and expert, to compare with a table."""
    if len(name) > _LONGEST:
        return name
    match = _LAYER.search(name)
    if match:
        name = f"{name[: match.start(1)]}{{layer}}{name[match.end(1) :]}"
    return _EXPERT.sub("{expert}", name, count=1)


def canonical_pattern(name: str, family: Family) -> str:
    """The pattern of the family's name for a tensor; an unknown name's own pattern."""
    pattern = pattern_of(name)
    return _spellings(family.model_type).get(pattern, pattern)


def canonical_name(name: str, family: Family) -> str:
    """The family's name for a tensor in another spelling; any other name is returned unchanged."""
    canonical = _spellings(family.model_type).get(pattern_of(name))
    return name if canonical is None else canonical.format(layer=layer_of(name), expert=expert_of(name))


@cache
def _spellings(model_type: str) -> dict[str, str]:
    """Pattern of another spelling → the family's own: GGUF's, the importer's, and names without `model.`"""
    found: dict[str, str] = {}
    for rule in FAMILIES[model_type].tensors:
        own = rule.gguf if rule.per_expert else rule.name  # experts in GGUF are a stack, a part of its own
        half_renamed = rule.gguf.replace("blk.", "model.layers.")  # left by importers that know only some names
        found |= dict.fromkeys((half_renamed, *rule.other, *(() if rule.per_expert else (rule.gguf,))), own)
        for name in (rule.name, rule.fused or "", *rule.parts):
            if name.startswith("model."):
                found[name.removeprefix("model.")] = name
    return found


@cache
def _table(model_type: str) -> frozenset[str]:
    """Every pattern that a file of the family may hold."""
    rules = FAMILIES[model_type].tensors
    names = {name for rule in rules for name in (rule.name, rule.gguf, rule.fused, *rule.parts) if name}
    return frozenset(names | set(_spellings(model_type)))


def families_with(names: Iterable[str]) -> set[str]:
    """The families whose tables contain every one of these tensor names; possibly none."""
    patterns = {pattern_of(name) for name in names}
    return {model_type for model_type in FAMILIES if patterns <= _table(model_type)}


def unknown_tensors(names: Iterable[str], family: Family) -> list[str]:
    """The first tensor of each pattern that the family's table does not contain."""
    table = _table(family.model_type)
    return list({pattern_of(name): name for name in reversed(list(names)) if pattern_of(name) not in table}.values())


def wrapper_prefix(names: Sequence[str], family: Family) -> str | None:
    """The prefix without which the family's table contains every one of these names; None where there is none."""
    table = _table(family.model_type)
    first = names[0].split(".")[:-1]
    prefixes = [".".join(first[: count + 1]) + "." for count in range(min(len(first), _PREFIXES))]
    known = (prefix for prefix in (*_WRAPPERS, *prefixes) if all(_without(name, prefix) in table for name in names))
    return next(known, None)


def _without(name: str, prefix: str) -> str:
    return pattern_of(name.replace(prefix, "", 1))
