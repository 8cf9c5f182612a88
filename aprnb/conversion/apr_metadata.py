"""The metadata of an `.apr` that we write: what the source says, one spelling per fact, the settled architecture."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from aprnb.architecture import ContractReport
from aprnb.architecture.orientation import came_from_gguf
from aprnb.formats import Checkpoint
from aprnb.formats.fields import INTERLEAVED, SPLIT_HALVES, TYPED
from aprnb.formats.metadata import ALIASES

_STALE = ("quantization", "sharding", "tensor_shapes", "gguf.kv")


def apr_metadata(
    checkpoint: Checkpoint, report: ContractReport, name: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The object to write with tensors of these `shapes`; `hf_config` is the source's config, or the architecture."""
    architecture = report.architecture
    aliases = {spelling for spellings in ALIASES.values() for spelling in spellings}
    kept = {key: value for key, value in checkpoint.metadata.items() if key not in aliases and key not in _STALE}
    kind = kept.get("tokenizer.model_type") or kept.get("tokenizer.model")
    if kind:
        kept.setdefault("tokenizer.model_type", kind)
        kept.setdefault("tokenizer.model", kind)
    stated = architecture.fields()
    kept |= {key: stated[field.name] for key, field in TYPED.items() if stated.get(field.name) is not None}
    kept.setdefault("architecture", architecture.model_type)
    kept.setdefault("hf_model_type", architecture.model_type)
    kept.setdefault("hf_architecture", architecture.family.class_name)
    kept.setdefault("hf_config", architecture.as_config())
    as_in_gguf = any(reading.heads or reading.shift for reading in report.readings.values())  # they are copied so
    if came_from_gguf(checkpoint):
        kept["model.rope_type"] = INTERLEAVED  # the mirror by which its origin is known
    return kept | {
        "name": name,
        "total_size": 0,
        "param_count": sum(prod(shape) for shape in shapes.values()),
        **({"rope_type": INTERLEAVED if as_in_gguf else SPLIT_HALVES} if architecture.rope_theta is not None else {}),
        "tied_embeddings": architecture.tie_word_embeddings,
        "tensor_shapes": {tensor: list(shapes[tensor]) for tensor in sorted(shapes)},
    }
