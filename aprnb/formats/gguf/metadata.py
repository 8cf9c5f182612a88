"""What a GGUF file says about itself, in the vocabulary of `.apr` metadata.

The keys are those that `apr import` writes for the same file; where that tool is known to write something false the
truth stands here: `rope_type` of split halves, the head size, no word of Q4_K in the description. Every key of the file
but the tokenizer's lists stays readable under `gguf.kv` as `{"t": type, "v": value}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.formats.contents import TensorEntry
from aprnb.formats.gguf.values import GgufValue

Values = Mapping[str, GgufValue]

EVIDENCE = "gguf.kv"
MAX_EVIDENCE_ELEMENTS = 4096

_INTEGERS = {
    "hidden_size": "embedding_length",
    "num_layers": "block_count",
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "vocab_size": "vocab_size",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "head_dim": "attention.key_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_NUMBERS = {
    "rope_theta": ("rope.freq_base",),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"),
}
_TOKENIZER = {
    "tokenizer.model": "tokenizer.ggml.model",
    "tokenizer.pre_type": "tokenizer.ggml.pre",
    "tokenizer.vocabulary": "tokenizer.ggml.tokens",
    "tokenizer.token_type": "tokenizer.ggml.token_type",
    "tokenizer.scores": "tokenizer.ggml.scores",
    "tokenizer.merges": "tokenizer.ggml.merges",
    "tokenizer.bos_token_id": "tokenizer.ggml.bos_token_id",
    "tokenizer.eos_token_id": "tokenizer.ggml.eos_token_id",
    "tokenizer.padding_token_id": "tokenizer.ggml.padding_token_id",
    "tokenizer.unknown_token_id": "tokenizer.ggml.unknown_token_id",
    "tokenizer.add_bos_token": "tokenizer.ggml.add_bos_token",
    "tokenizer.add_space_prefix": "tokenizer.ggml.add_space_prefix",
    "tokenizer.chat_template": "tokenizer.chat_template",
    "chat_template": "tokenizer.chat_template",
}
_LISTS = ("tokenizer.vocabulary", "tokenizer.token_type", "tokenizer.scores", "tokenizer.merges")

_MODEL_TYPES = {"qwen3moe": "qwen3_moe", "gemma3": "gemma3_text"}
"""GGUF architecture → model type, where Hugging Face spells it otherwise."""

_CLASS_NAMES = {
    "gpt2": "GPT2LMHeadModel",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
INTERLEAVED, SPLIT_HALVES = 0, 2
INTERLEAVED_SLUGS = ("llama", "granite", "smollm3", "mixtral")
"""Architectures whose q and k rows GGUF files hold permuted for interleaved rotation (llama.cpp's conversion)."""


def apr_metadata(values: Values, tensors: Mapping[str, TensorEntry]) -> tuple[dict[str, Any], list[str]]:
    """The metadata, and what in the file could not be kept."""
    slug = _text(values, "general.architecture") or ""
    described = _identity(slug, values) | _dimensions(slug, values, tensors) | _tokenizer(values)
    described["param_count"] = sum(entry.elements for entry in tensors.values())
    described[EVIDENCE] = {
        key: {"t": value.kind, "v": _json(value.value)} for key, value in values.items() if _kept(value)
    }
    warnings = [
        f"metadata {key} is a text too long to keep; it is not read" for key, v in values.items() if v.value is None
    ]
    return {key: value for key, value in described.items() if value is not None}, warnings


def model_type(slug: str, values: Values) -> str:
    """The Hugging Face model type of a GGUF architecture; a llama with experts is a mixtral."""
    experts = values.get(f"{slug}.expert_count")
    if slug == "llama" and experts is not None and experts.value:
        return "mixtral"
    return _MODEL_TYPES.get(slug, slug)


def _identity(slug: str, values: Values) -> dict[str, Any]:
    name = model_type(slug, values)
    capitalised = "".join(part.capitalize() for part in name.split("_"))
    return {
        "model_type": name,
        "name": name,
        "description": _text(values, "general.description"),
        "author": _text(values, "general.author"),
        "license": _text(values, "general.license"),
        "version": _text(values, "general.version") or "1.0.0",
        "source": _text(values, "general.source.url"),
        "original_format": "gguf",
        "total_size": 0,
        "architecture": name,
        "hf_architecture": _CLASS_NAMES.get(name, f"{capitalised}ForCausalLM") if name else None,
        "hf_model_type": name,
    }


def _dimensions(slug: str, values: Values, tensors: Mapping[str, TensorEntry]) -> dict[str, Any]:
    found: dict[str, Any] = {name: _uniform(values.get(f"{slug}.{key}")) for name, key in _INTEGERS.items()}
    for name, keys in _NUMBERS.items():
        found[name] = next((values[f"{slug}.{key}"].value for key in keys if f"{slug}.{key}" in values), None)
    embedding = tensors.get("token_embd.weight")
    if found["vocab_size"] is None and embedding is not None and len(embedding.shape) == 2:
        found["vocab_size"] = embedding.shape[0]
    if found["num_kv_heads"] is None:
        found["num_kv_heads"] = found["num_heads"]
    if found["rope_theta"] is not None:
        found["rope_type"] = INTERLEAVED if model_type(slug, values) in INTERLEAVED_SLUGS else SPLIT_HALVES
    return found


def _uniform(value: GgufValue | None) -> Any:
    """The value; of one given per layer the one that all layers share, else None."""
    if value is None or not isinstance(value.value, list):
        return None if value is None else value.value
    values = value.value
    return values[0] if values and values.count(values[0]) == len(values) else None


def _tokenizer(values: Values) -> dict[str, Any]:
    found = {name: values[key].value for name, key in _TOKENIZER.items() if key in values}
    if isinstance(found.get("tokenizer.vocabulary"), list):
        found["tokenizer.vocab_size"] = len(found["tokenizer.vocabulary"])
    return found


def _kept(value: GgufValue) -> bool:
    return value.value is not None and not (isinstance(value.value, list) and len(value.value) > MAX_EVIDENCE_ELEMENTS)


def _json(value: Any) -> Any:
    """NaN and infinities, which JSON has not, as their names."""
    if isinstance(value, list):
        return [_json(part) for part in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value


def _text(values: Values, key: str) -> str | None:
    value = values[key].value if key in values else None
    return value if isinstance(value, str) else None
