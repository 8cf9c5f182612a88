"""The model families that can be built, one table file each."""

from __future__ import annotations

from aprnb.architecture.families.family import Family, FieldRule, TensorRule
from aprnb.architecture.families.llama import LLAMA
from aprnb.architecture.families.mistral import MISTRAL
from aprnb.architecture.families.qwen2 import QWEN2
from aprnb.architecture.families.qwen3 import QWEN3

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}


def family_named(name: str) -> Family | None:
    """The family that goes by `name`: a model type, a class name or another spelling; None for an unknown one."""
    wanted = name.strip().lower()
    return next((family for family in FAMILIES.values() if wanted in family.names), None)


__all__ = ["FAMILIES", "Family", "FieldRule", "TensorRule", "family_named"]
