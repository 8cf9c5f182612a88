"""The metadata of what we write: all that the base says, one spelling per fact, true figures, tokenizer, template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aprnb.architecture import Architecture
from aprnb.formats.fields import SPLIT_HALVES
from aprnb.formats.huggingface.tokenizer_json import tokenizer_metadata
from aprnb.formats.metadata import ALIASES
from aprnb.tokenizer.facts import has_tokenizer

_STALE = ("quantization", "tensor_shapes", "source_metadata", "sharding", "total_size", "description")


def merged_metadata(
    base: Mapping[str, Any], architecture: Architecture, tokenizer: Any, param_count: int
) -> dict[str, Any]:
    """A new object; `hf_config` holds the whole architecture, so that nothing of the forward pass is lost."""
    dropped = {spelling for spellings in ALIASES.values() for spelling in spellings} | set(_STALE)
    kept = {key: value for key, value in base.items() if key not in dropped and not key.startswith("model.")}
    if not has_tokenizer(base):
        kept |= _tokenizer_metadata(tokenizer)
    kind = kept.get("tokenizer.model_type") or kept.get("tokenizer.model")
    if kind:
        kept |= {
            "tokenizer.model_type": kept.get("tokenizer.model_type", kind),
            "tokenizer.model": kept.get("tokenizer.model", kind),
        }
    if tokenizer.chat_template:
        kept["chat_template"] = tokenizer.chat_template
    if tokenizer.chat_template and "tokenizer.chat_template" in base:
        # Where this key stands, `apr run` wraps every prompt in the template; a base without it is prompted as it is.
        kept["tokenizer.chat_template"] = tokenizer.chat_template
    return kept | {
        "model_type": architecture.model_type,
        "architecture": architecture.model_type,
        "hf_model_type": architecture.model_type,
        "hf_architecture": architecture.family.class_name,
        "original_format": "apr",
        "total_size": 0,
        "param_count": param_count,
        "hidden_size": architecture.hidden_size,
        "num_layers": architecture.num_hidden_layers,
        "num_heads": architecture.num_attention_heads,
        "num_kv_heads": architecture.num_key_value_heads,
        "head_dim": architecture.head_dim,
        "vocab_size": architecture.vocab_size,
        "intermediate_size": architecture.intermediate_size,
        "max_position_embeddings": architecture.max_position_embeddings,
        **_rotation(architecture),
        "rms_norm_eps": architecture.rms_norm_eps,
        "tied_embeddings": architecture.tie_word_embeddings,
        "hf_config": architecture.as_config(),
    }


def _rotation(architecture: Architecture) -> dict[str, Any]:
    if architecture.rope_theta is None:
        return {}
    return {"rope_theta": architecture.rope_theta, "rope_type": SPLIT_HALVES}


def _tokenizer_metadata(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer that lay beside the base, for a file that stands on its own."""
    parsed = json.loads(tokenizer.backend_tokenizer.to_str())
    named = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id}
    ids = {f"tokenizer.{name}_token_id": number for name, number in named.items() if number is not None}
    return tokenizer_metadata(parsed, {}, "the tokenizer beside the base") | ids
