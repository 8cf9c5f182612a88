"""The metadata of a GGUF file, under the keys of `.apr` metadata.

The keys are those that `apr import` writes for the same file, without its known mistakes: `rope_type` is that of split
halves, the head size is stated, the description does not mention Q4_K. Every key of the file
but the tokenizer's lists stays readable under `gguf.kv` as `{"t": type, "v": value}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.formats.contents import TensorEntry
from aprnb.formats.fields import LAYER_NORM_EPSILON, SPLIT_HALVES, TYPED, Field
from aprnb.formats.gguf.values import GgufValue

Values = Mapping[str, GgufValue]

EVIDENCE = "gguf.kv"
MAX_EVIDENCE_ELEMENTS = 4096

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


def apr_metadata(values: Values, tensors: Mapping[str, TensorEntry]) -> tuple[dict[str, Any], list[str]]:
    """The metadata, and a warning for each key that could not be kept."""
    slug = _text(values, "general.architecture") or ""
    described = _identity(slug, values) | _dimensions(slug, values, tensors) | _tokenizer(values)
    described["param_count"] = sum(entry.elements for entry in tensors.values())
    described[EVIDENCE] = {
        key: {"t": value.kind, "v": _json(value.value)} for key, value in values.items() if _kept(value)
    }
    warnings = [f"metadata {key} is too long; it is not read" for key, v in values.items() if v.value is None]
    return {key: value for key, value in described.items() if value is not None}, warnings


def _identity(slug: str, values: Values) -> dict[str, Any]:
    """The names are llama.cpp's: `Checkpoint.metadata` replaces them by those of the family."""
    capitalised = "".join(part.capitalize() for part in slug.split("_"))
    return {
        "model_type": slug,
        "name": slug,
        "description": _text(values, "general.description"),
        "author": _text(values, "general.author"),
        "license": _text(values, "general.license"),
        "version": _text(values, "general.version") or "1.0.0",
        "source": _text(values, "general.source.url"),
        "original_format": "gguf",
        "total_size": 0,
        "architecture": slug,
        "hf_architecture": f"{capitalised}ForCausalLM" if slug else None,
        "hf_model_type": slug,
    }


def _dimensions(slug: str, values: Values, tensors: Mapping[str, TensorEntry]) -> dict[str, Any]:
    found = {key: _stated(slug, values, field) for key, field in TYPED.items()}
    if found["rms_norm_eps"] is None and f"{slug}.{LAYER_NORM_EPSILON}" in values:
        found["rms_norm_eps"] = values[f"{slug}.{LAYER_NORM_EPSILON}"].value
    embedding = tensors.get("token_embd.weight")
    if found["vocab_size"] is None and embedding is not None and len(embedding.shape) == 2:
        found["vocab_size"] = embedding.shape[0]
    if found["num_kv_heads"] is None:
        found["num_kv_heads"] = found["num_heads"]
    if found["rope_theta"] is not None:
        found["rope_type"] = SPLIT_HALVES
    return found


def _stated(slug: str, values: Values, field: Field) -> Any:
    """The field's value, None where it is absent; of an integer for each layer the one that all layers share."""
    value = values.get(f"{slug}.{field.gguf[0]}")
    if value is None or not (isinstance(value.value, list) and field.kind == "integer"):
        return None if value is None else value.value
    return value.value[0] if value.value and value.value.count(value.value[0]) == len(value.value) else None


def _tokenizer(values: Values) -> dict[str, Any]:
    found = {name: values[key].value for name, key in _TOKENIZER.items() if key in values}
    if isinstance(found.get("tokenizer.vocabulary"), list):
        found["tokenizer.vocab_size"] = len(found["tokenizer.vocabulary"])
    return found


def _kept(value: GgufValue) -> bool:
    return value.value is not None and not (isinstance(value.value, list) and len(value.value) > MAX_EVIDENCE_ELEMENTS)


def _json(value: Any) -> Any:
    """NaN and infinities as their names: JSON has no such numbers."""
    if isinstance(value, list):
        return [_json(part) for part in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value


def _text(values: Values, key: str) -> str | None:
    value = values[key].value if key in values else None
    return value if isinstance(value, str) else None
