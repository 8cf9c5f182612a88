"""The metadata of a written `.apr`: those of the source, one spelling per key, and the resolved architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from aprnb.architecture import Architecture, ContractReport
from aprnb.architecture.orientation import came_from_gguf
from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint
from aprnb.formats.fields import INTERLEAVED, SPLIT_HALVES, TYPED
from aprnb.formats.gguf.provenance import PROVENANCE, derived, general, own_name
from aprnb.formats.huggingface.model_card import CARD
from aprnb.formats.huggingface.tokenizer_json import tokenizer_metadata
from aprnb.formats.metadata import ALIASES
from aprnb.tokenizer.facts import has_tokenizer

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_STALE = ("quantization", "sharding", "tensor_shapes", "gguf.kv")
_OF_THE_SOURCE = (
    "architecture", "author", "description", "hf_architecture", "hf_config", "hf_model_type", "license", "model_type",
    "original_format", "source", "source_metadata", "version", CARD, PROVENANCE,
)  # fmt: skip
"""What a file says about the source of its tensors; not true of weights that are recomputed."""
_MIRRORS = "model."
"""GGUF's keys, which `apr import` copies: they describe GGUF's layout."""
Shapes = Mapping[str, tuple[int, ...]]


def stored_metadata(checkpoint: Checkpoint, report: ContractReport, name: str, shapes: Shapes) -> dict[str, Any]:
    """For tensors of these `shapes` in the source's own layout; `hf_config` is the source's, or the architecture."""
    as_in_gguf = any(reading.heads or reading.shift for reading in report.readings.values())
    kept = dict(checkpoint.metadata)
    if not _states(checkpoint, report.architecture):
        kept["hf_config"] = _config(kept.get("hf_config"), report.architecture)
    found = _metadata(kept, report, _kept_name(checkpoint) or name, shapes, INTERLEAVED if as_in_gguf else SPLIT_HALVES)
    if came_from_gguf(checkpoint):
        found["model.rope_type"] = INTERLEAVED  # the copy by which readers recognise its origin
    return found


def _kept_name(checkpoint: Checkpoint) -> str | None:
    """The source's own name; that of a folder which does not state one is only the folder's."""
    of_apr = own_name(checkpoint.metadata) if checkpoint.format == "apr" else None
    stated = general(checkpoint.metadata).get("name")
    return stated if isinstance(stated, str) else of_apr


def model_metadata(
    checkpoint: Checkpoint, report: ContractReport, name: str, shapes: Shapes, tokenizer: Any
) -> dict[str, Any]:
    """For the model's weights in its own layout; a base without a tokenizer gets `tokenizer`, a transformers one."""
    base = checkpoint.metadata
    kept = {key: base[key] for key in base if key not in _OF_THE_SOURCE and not key.startswith(_MIRRORS)}
    if not has_tokenizer(base):
        kept |= _tokenizer(tokenizer)
    if tokenizer.chat_template:
        kept["chat_template"] = tokenizer.chat_template
        if "tokenizer.chat_template" in base:
            # With this key, `apr run` wraps every prompt in the template; a base without it is prompted as is.
            kept["tokenizer.chat_template"] = tokenizer.chat_template
    kept |= derived(base, name, checkpoint.path.stem)
    kept |= {"original_format": "apr", "model_type": report.architecture.model_type}
    kept["hf_config"] = _config(base.get("hf_config"), report.architecture)
    return _metadata(kept, report, name, shapes, SPLIT_HALVES)


def _states(checkpoint: Checkpoint, architecture: Architecture) -> bool:
    """Whether the checkpoint alone states this architecture, without the user's config and overrides."""
    try:
        return checkpoint.architecture.fields() == architecture.fields()
    except ArchitectureError:
        return False


def _config(stated: Any, architecture: Architecture) -> dict[str, Any]:
    """The architecture as a config, with the special tokens of the source's config: there may be several end tokens."""
    source = stated if isinstance(stated, Mapping) else {}
    return {key: source[key] for key in SPECIAL_IDS if source.get(key) is not None} | architecture.as_config()


def _metadata(
    source: Mapping[str, Any], report: ContractReport, name: str, shapes: Shapes, rotation: int
) -> dict[str, Any]:
    architecture = report.architecture
    aliases = {spelling for spellings in ALIASES.values() for spelling in spellings}
    kept = {key: value for key, value in source.items() if key not in aliases and key not in _STALE}
    kind = kept.get("tokenizer.model_type") or kept.get("tokenizer.model")
    if kind:
        kept.setdefault("tokenizer.model_type", kind)
        kept.setdefault("tokenizer.model", kind)
    stated = architecture.fields()
    kept |= {key: stated[field.name] for key, field in TYPED.items() if stated.get(field.name) is not None}
    kept.setdefault("architecture", architecture.model_type)
    kept.setdefault("hf_model_type", architecture.model_type)
    kept.setdefault("hf_architecture", architecture.family.class_name)
    config = kept.setdefault("hf_config", architecture.as_config())
    if isinstance(config, Mapping) and config.get("tie_word_embeddings") is (not architecture.tie_word_embeddings):
        kept["hf_config"] = {**config, "tie_word_embeddings": architecture.tie_word_embeddings}  # the head decided
    return kept | {
        "name": name,
        "total_size": 0,
        "param_count": sum(prod(shape) for shape in shapes.values()),
        **({"rope_type": rotation} if architecture.rope_theta is not None else {}),
        "tied_embeddings": architecture.tie_word_embeddings,
        "tensor_shapes": {tensor: list(shapes[tensor]) for tensor in sorted(shapes)},
    }


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer from a sidecar file of the base, so that the written file is complete."""
    parsed = json.loads(tokenizer.backend_tokenizer.to_str())
    named = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id}
    ids = {f"tokenizer.{name}_token_id": number for name, number in named.items() if number is not None}
    return tokenizer_metadata(parsed, {}, "the base's sidecar tokenizer") | ids
