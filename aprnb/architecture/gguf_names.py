"""Which family the metadata of a GGUF file names: it states a graph of llama.cpp, not a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.architecture.families import family_of_gguf
from aprnb.formats.fields import INTERLEAVED


def gguf_names(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `.apr` metadata with the family's names and rotation; empty for a graph of no known family."""
    family = family_of_gguf(metadata["architecture"], bool(metadata.get("num_experts")))
    if family is None:
        return {}
    rotation = {"rope_type": INTERLEAVED} if "rope_type" in metadata and family.gguf.permutes_rows else {}
    named = dict.fromkeys(("model_type", "name", "architecture", "hf_model_type"), family.model_type)
    return {**named, "hf_architecture": family.class_name, **rotation}
