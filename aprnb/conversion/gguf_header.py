"""An architecture in the keys of GGUF: what llama.cpp reads, and what `architecture/gguf_keys.py` reads back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aprnb.architecture import Architecture
from aprnb.architecture.gguf_keys import (
    ROPE_FREQS,
    ROPE_LONG,
    ROPE_SHORT,
    llama3_factors,
    longrope_attention_factor,
)
from aprnb.errors import OutputError
from aprnb.formats.dtypes import F32
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.gguf.writer import GgufTensor

SLUGS = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma",
    "qwen3_moe": "qwen3moe", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3", "gpt2": "gpt2",
    "olmo2": "olmo2", "granite": "granite", "smollm3": "smollm3", "starcoder2": "starcoder2",
}  # fmt: skip
"""Model type → GGUF architecture; Mistral and Mixtral are llamas there."""

_KEYS = {
    "context_length": ("uint32", "max_position_embeddings"),
    "embedding_length": ("uint32", "hidden_size"),
    "block_count": ("uint32", "num_hidden_layers"),
    "feed_forward_length": ("uint32", "intermediate_size"),
    "attention.head_count": ("uint32", "num_attention_heads"),
    "attention.head_count_kv": ("uint32", "num_key_value_heads"),
    "attention.key_length": ("uint32", "head_dim"),
    "attention.value_length": ("uint32", "head_dim"),
    "vocab_size": ("uint32", "vocab_size"),
    "rope.freq_base": ("float32", "rope_theta"),
    "attention.layer_norm_rms_epsilon": ("float32", "rms_norm_eps"),
    "attn_logit_softcapping": ("float32", "attn_logit_softcapping"),
    "final_logit_softcapping": ("float32", "final_logit_softcapping"),
    "expert_count": ("uint32", "num_experts"),
    "expert_used_count": ("uint32", "num_experts_per_tok"),
    "expert_feed_forward_length": ("uint32", "moe_intermediate_size"),
    "logit_scale": ("float32", "logits_scaling"),
    "residual_scale": ("float32", "residual_multiplier"),
    "embedding_scale": ("float32", "embedding_multiplier"),
    "attention.scale": ("float32", "attention_multiplier"),
    "rope.freq_base_swa": ("float32", "rope_local_base_freq"),
}
_WINDOWED = ("gemma2", "gemma3", "phi3")
"""Architectures whose graph in llama.cpp heeds `attention.sliding_window`; 0 stands for none."""

_LAYER_NORM = ("gpt2", "starcoder2")
_ALWAYS_TIED = ("gemma", "gemma2")
_NEVER_TIED = ("olmo2",)
"""llama.cpp takes the embedding for a head that is not there, in every graph but these (llama-model.cpp)."""
_OPTIONAL_BIASES = ("llama", "granite")
_ALWAYS_BIASED = ("qwen2", "starcoder2", "gpt2")
_YARN = {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}


def architecture_values(architecture: Architecture) -> dict[str, GgufValue]:
    """The keys of the architecture; raises OutputError for a family or a field that GGUF has no word for."""
    slug = SLUGS.get(architecture.model_type)
    if slug is None:
        raise OutputError(f"GGUF has no name for {architecture.model_type}", expected=f"one of {', '.join(SLUGS)}")
    fields = architecture.fields()
    _require_tensors(slug, fields)
    found = {key: GgufValue(kind, fields[name]) for key, (kind, name) in _KEYS.items() if fields.get(name) is not None}
    if slug in _LAYER_NORM:
        found["attention.layer_norm_epsilon"] = found.pop("attention.layer_norm_rms_epsilon")
    if slug in _WINDOWED:
        found["attention.sliding_window"] = GgufValue("uint32", fields["sliding_window"] or 0)
    if fields.get("rope_theta") is not None:
        rotated = int(fields["head_dim"] * (fields.get("partial_rotary_factor") or 1.0))
        found["rope.dimension_count"] = GgufValue("uint32", rotated)
        found |= _scaling_values(fields)
    return {"general.architecture": GgufValue("string", slug)} | {f"{slug}.{key}": found[key] for key in found}


def _require_tensors(slug: str, fields: Mapping[str, Any]) -> None:
    """llama.cpp refuses a file with tensors that its graph has not."""
    if slug in _ALWAYS_TIED and not fields["tie_word_embeddings"]:
        raise OutputError(f"a head of its own cannot be expressed in GGUF: llama.cpp's graph of {slug} ties it")
    if slug in _NEVER_TIED and fields["tie_word_embeddings"]:
        raise OutputError(f"a tied head cannot be expressed in GGUF: llama.cpp's graph of {slug} has its own")
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name) and slug not in (*_OPTIONAL_BIASES, *_ALWAYS_BIASED):
            raise OutputError(f"{name} of {slug} cannot be expressed in GGUF: llama.cpp's graph of it has none")


def _scaling_values(fields: Mapping[str, Any]) -> dict[str, GgufValue]:
    scaling: Mapping[str, Any] = fields.get("rope_scaling") or {"rope_type": "none"}
    kind = scaling["rope_type"]
    if kind not in ("none", "linear", "yarn", "llama3", "longrope"):
        raise OutputError(
            f"RoPE scaling {kind!r} cannot be expressed in GGUF", expected="linear, yarn, llama3 or longrope"
        )
    original = scaling.get("original_max_position_embeddings", fields.get("original_max_position_embeddings"))
    values = {} if kind in ("llama3", "longrope") else {"rope.scaling.type": GgufValue("string", kind)}
    if kind in ("linear", "yarn"):
        values["rope.scaling.factor"] = GgufValue("float32", scaling["factor"])
    if kind != "llama3" and original is not None:
        values["rope.scaling.original_context_length"] = GgufValue("uint32", original)
    if kind == "longrope":
        factor = scaling.get("attention_factor") or longrope_attention_factor(
            fields["max_position_embeddings"], original
        )
        values["rope.scaling.attn_factor"] = GgufValue("float32", factor)
    if kind == "yarn":
        values |= {key: GgufValue("float32", scaling[name]) for name, key in _YARN.items() if name in scaling}
    return values


def rope_tensors(architecture: Architecture) -> list[GgufTensor]:
    """The factors of scaled rotation that GGUF keeps as tensors."""
    scaling = architecture.rope_scaling or {}
    if scaling.get("rope_type") == "llama3" and architecture.rope_theta is not None:
        factors = llama3_factors(scaling, architecture.rope_theta, architecture.head_dim)
        return [_vector(ROPE_FREQS, factors)]
    if scaling.get("rope_type") == "longrope":
        return [
            _vector(name, np.asarray(scaling[key], np.float32))
            for name, key in ((ROPE_LONG, "long_factor"), (ROPE_SHORT, "short_factor"))
        ]
    return []


def _vector(name: str, values: np.ndarray) -> GgufTensor:
    def parts() -> Iterator[bytes]:
        yield values.astype("<f4").tobytes()

    return GgufTensor(name, F32, values.shape, parts)
