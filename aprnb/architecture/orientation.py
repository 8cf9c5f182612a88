"""Files whose matrices are not stored as their names imply: shapes in GGUF's order, projections stored [in, out]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aprnb.formats import Checkpoint, TensorEntry
from aprnb.formats.fields import INTERLEAVED
from aprnb.formats.metadata import lookup

TRAINING = "__training__."
_EMBEDDING, _NORM = "model.embed_tokens.weight", "model.norm.weight"
_TRAINER = "entrenar-checkpoint"


def has_reversed_shapes(checkpoint: Checkpoint) -> bool:
    """Whether matrices under Hugging Face names have GGUF's order of dimensions over row-major bytes.

    `apr convert --quantize q4k` writes that from a GGUF with K-quants. The final norm has the hidden size; the
    embedding has it as its last dimension, or in such files as its first.
    """
    embedding, norm = checkpoint.tensors.get(_EMBEDDING), checkpoint.tensors.get(_NORM)
    if embedding is None or norm is None or len(embedding.shape) != 2 or len(norm.shape) != 1:
        return False
    hidden = norm.shape[0]
    return embedding.shape[0] == hidden and embedding.shape[1] != hidden


def oriented(checkpoint: Checkpoint) -> Mapping[str, TensorEntry]:
    """The entries with their shapes outermost first."""
    if not has_reversed_shapes(checkpoint):
        return checkpoint.tensors
    return {
        name: replace(entry, shape=entry.shape[::-1]) if len(entry.shape) == 2 else entry
        for name, entry in checkpoint.tensors.items()
    }


def has_transposed_projections(checkpoint: Checkpoint) -> bool:
    """Whether projections hold [in, out] bytes under an [out, in] shape: checkpoints of the tool's CUDA trainer.

    Its CPU trainer writes the same `format` without dimensions and stores [out, in].
    """
    metadata = checkpoint.metadata
    if metadata.get("format") != _TRAINER:
        return False
    return bool(metadata.get("model_config")) or lookup(metadata, "hidden_size") is not None


def is_projection(name: str) -> bool:
    return name.endswith("_proj.weight") or name == "lm_head.weight"


def is_training_state(name: str) -> bool:
    """Whether a tensor belongs to a trainer's state and is not a weight of the model."""
    return name.startswith(TRAINING)


def training_state(checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(filter(is_training_state, checkpoint.tensors))


def odd_layout(checkpoint: Checkpoint) -> list[str]:
    """A warning for each way in which tensors are not read as they are stored."""
    notes = []
    if has_reversed_shapes(checkpoint):
        notes.append("shapes of matrices are listed in GGUF's order; they are read outermost dimension first")
    if has_transposed_projections(checkpoint):
        notes.append(f"format {_TRAINER} with dimensions: its projections hold [in, out] bytes and are transposed")
    state = training_state(checkpoint)
    if state:
        notes.append(f"{len(state)} tensors hold a training state ({state[0]} …); they are not weights")
    return notes


def came_from_gguf(checkpoint: Checkpoint) -> bool:
    """Whether an `.apr` holds GGUF's bytes under any names: `apr import` renames tensors and changes none.

    It states the origin and `rope_type` 0, RoPE on adjacent pairs; files written by this package state 2.
    `apr convert` of a safetensors file states both wrongly, but names the class and has no `model.` keys.
    """
    metadata = checkpoint.metadata
    stated = metadata.get("original_format") == "gguf" and metadata.get("rope_type") == INTERLEAVED
    mirrored = any(key.startswith("model.") for key in metadata)
    return checkpoint.format == "apr" and stated and (mirrored or not metadata.get("hf_architecture"))
