"""The supported model families, one file each."""

from __future__ import annotations

from aprnb.architecture.families.family import Family, FieldRule, GgufGraph, TensorRule
from aprnb.architecture.families.gemma import GEMMA
from aprnb.architecture.families.gemma2 import GEMMA2
from aprnb.architecture.families.gemma3 import GEMMA3_TEXT
from aprnb.architecture.families.gpt2 import GPT2
from aprnb.architecture.families.granite import GRANITE
from aprnb.architecture.families.llama import LLAMA
from aprnb.architecture.families.mistral import MISTRAL
from aprnb.architecture.families.mixtral import MIXTRAL
from aprnb.architecture.families.olmo2 import OLMO2
from aprnb.architecture.families.phi3 import PHI3
from aprnb.architecture.families.qwen2 import QWEN2
from aprnb.architecture.families.qwen3 import QWEN3
from aprnb.architecture.families.qwen3_moe import QWEN3_MOE
from aprnb.architecture.families.smollm3 import SMOLLM3
from aprnb.architecture.families.starcoder2 import STARCODER2

FAMILIES: dict[str, Family] = {}
"""Model type → family, in the order of registration."""


def register(family: Family) -> None:
    """Add a family to those that the package supports; raises ValueError for a model type that is taken."""
    if family.model_type in FAMILIES:
        raise ValueError(f"the family {family.model_type} is registered already")
    FAMILIES[family.model_type] = family


for _family in (
    *(GEMMA, GEMMA2, GEMMA3_TEXT, GPT2, GRANITE, LLAMA, MISTRAL, MIXTRAL, OLMO2, PHI3, QWEN2, QWEN3, QWEN3_MOE),
    *(SMOLLM3, STARCODER2),
):
    register(_family)


def family_named(name: str) -> Family | None:
    """The family called `name`: a model type, a class name or another spelling; None for an unknown one."""
    wanted = name.strip().lower()
    return next((family for family in FAMILIES.values() if wanted in family.names), None)


def family_of_gguf(slug: str, has_experts: bool) -> Family | None:
    """The family of a GGUF architecture; None for an unknown one. Of several, a llama with experts is a mixtral."""
    found = [family for family in FAMILIES.values() if family.gguf.slug == slug]
    return max(
        found,
        key=lambda family: (family.has_experts == has_experts, family.model_type == slug),
        default=FAMILIES.get(slug),
    )


__all__ = ["FAMILIES", "Family", "FieldRule", "GgufGraph", "TensorRule", "family_named", "family_of_gguf", "register"]
