"""Under which name each tensor of a GGUF file goes into an `.apr`: as `apr import` has it."""

from __future__ import annotations

from aprnb.architecture.families import Family
from aprnb.architecture.names import canonical_name
from aprnb.formats import Checkpoint

_RENAMED = ("qwen2", "qwen3")
"""Families whose GGUF tensors that tool renames to Hugging Face names; the others keep `blk.N.…`, rows permuted."""


def apr_names(checkpoint: Checkpoint, family: Family) -> dict[str, str]:
    """The checkpoint's tensor name → its name in an `.apr`; only names change, never shapes or bytes."""
    if checkpoint.format != "gguf" or family.model_type not in _RENAMED:
        return {name: name for name in checkpoint.tensors}
    return {name: canonical_name(name, family) for name in checkpoint.tensors}
