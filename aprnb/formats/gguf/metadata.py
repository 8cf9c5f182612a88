"""The metadata of a GGUF file, under the keys of `.apr` metadata.

The keys are those that `apr import` writes for the same file, without its known mistakes: `rope_type` is that of split
halves, the head size is stated, the description does not mention Q4_K. Every key of the file
but the tokenizer's lists stays readable under `gguf.kv` as `{"t": type, "v": value}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.contents import TensorEntry
from aprnb.formats.fields import LAYER_NORM_EPSILON, SPLIT_HALVES, TYPED, Field
from aprnb.formats.gguf.provenance import OF_THE_FILE, PREFIX, as_metadata, general
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.json_text import read_json

Values = Mapping[str, GgufValue]

EVIDENCE = "gguf.kv"
MAX_EVIDENCE_ELEMENTS = 4096

HF_TOKENIZER = "aprnb.hf_tokenizer"
"""What `hf_tokenizer` has in `.apr` metadata, as JSON: written where no keys of GGUF's can state it."""
TOKENIZER_SETTINGS: Mapping[str, str] = {
    "unknown_token_id": "uint32", "add_bos_token": "bool", "add_eos_token": "bool", "add_space_prefix": "bool",
    "eot_token_id": "uint32", "eom_token_id": "uint32", "seperator_token_id": "uint32", "mask_token_id": "uint32",
    "add_sep_token": "bool", "remove_extra_whitespaces": "bool", "fim_pre_token_id": "uint32",
    "fim_suf_token_id": "uint32", "fim_mid_token_id": "uint32", "fim_pad_token_id": "uint32",
    "fim_rep_token_id": "uint32", "fim_sep_token_id": "uint32",
}  # fmt: skip
"""Settings under `tokenizer.ggml.`, spelled as llama.cpp reads them, and their types."""

_TOKENIZER = {
    "tokenizer.model": "tokenizer.ggml.model",
    "tokenizer.pre_type": "tokenizer.ggml.pre",
    "tokenizer.vocabulary": "tokenizer.ggml.tokens",
    "tokenizer.token_type": "tokenizer.ggml.token_type",
    "tokenizer.scores": "tokenizer.ggml.scores",
    "tokenizer.merges": "tokenizer.ggml.merges",
    "tokenizer.bos_token_id": "tokenizer.ggml.bos_token_id",
    "tokenizer.eos_token_id": "tokenizer.ggml.eos_token_id",
    "tokenizer.eot_token_id": "tokenizer.ggml.eot_token_id",
    "tokenizer.eom_token_id": "tokenizer.ggml.eom_token_id",
    "tokenizer.padding_token_id": "tokenizer.ggml.padding_token_id",
    **{f"tokenizer.{name}": f"tokenizer.ggml.{name}" for name in TOKENIZER_SETTINGS},
    "tokenizer.chat_template": "tokenizer.chat_template",
    "chat_template": "tokenizer.chat_template",
}
_NAMED_TEMPLATE = "tokenizer.chat_template."
_OTHERS = {
    **dict.fromkeys(("model_type", "architecture", "hf_architecture", "hf_model_type"), "general.architecture"),
    "hf_tokenizer": HF_TOKENIZER,
}
_LISTS = ("tokenizer.vocabulary", "tokenizer.token_type", "tokenizer.scores", "tokenizer.merges")


def key_name(metadata: Mapping[str, Any], key: str) -> str:
    """How messages name a key of the metadata: a GGUF file has another one, which states it."""
    if EVIDENCE not in metadata:
        return f"metadata {key}"
    return f"GGUF {_TOKENIZER.get(key) or _OTHERS.get(key) or key}"


def template_name(metadata: Mapping[str, Any], name: str) -> str:
    """The same of one of several chat templates."""
    if EVIDENCE not in metadata:
        return f"metadata chat_templates ({name})"
    return f"GGUF {_NAMED_TEMPLATE}{name}"


def apr_metadata(values: Values, tensors: Mapping[str, TensorEntry]) -> tuple[dict[str, Any], list[str]]:
    """The metadata, and a warning for each key that could not be kept."""
    slug = _text(values, "general.architecture") or ""
    warnings = [f"metadata {key} is too long; it is not read" for key, v in values.items() if v.value is None]
    described = (
        _identity(slug) | as_metadata(_general(values)) | _dimensions(slug, values, tensors) | _tokenizer(values)
    )
    if HF_TOKENIZER in values:
        described["hf_tokenizer"] = _hf_tokenizer(_text(values, HF_TOKENIZER) or "", warnings)
    described["param_count"] = sum(entry.elements for entry in tensors.values())
    described[EVIDENCE] = {
        key: {"t": value.kind, "v": _json(value.value)}
        for key, value in values.items()
        if _kept(value) and key != HF_TOKENIZER
    }
    unkept = [key for key in _general(values) if key not in general(described)]
    warnings += [f"{PREFIX}{key} has a form that is not kept" for key in unkept if values[f"{PREFIX}{key}"].value]
    return {key: value for key, value in described.items() if value is not None}, warnings


def _identity(slug: str) -> dict[str, Any]:
    """The names are llama.cpp's: `Checkpoint.metadata` replaces them by those of the family."""
    capitalised = "".join(part.capitalize() for part in slug.split("_"))
    return {
        "model_type": slug,
        "name": slug,
        "version": "1.0.0",
        "original_format": "gguf",
        "total_size": 0,
        "architecture": slug,
        "hf_architecture": f"{capitalised}ForCausalLM" if slug else None,
        "hf_model_type": slug,
    }


def _general(values: Values) -> dict[str, Any]:
    """The keys about the model, without those about the file itself."""
    stated = {key.removeprefix(PREFIX): value.value for key, value in values.items() if key.startswith(PREFIX)}
    return {key: value for key, value in stated.items() if key not in OF_THE_FILE}


def _dimensions(slug: str, values: Values, tensors: Mapping[str, TensorEntry]) -> dict[str, Any]:
    found = {key: _stated(slug, values, field) for key, field in TYPED.items()}
    if found["rms_norm_eps"] is None and f"{slug}.{LAYER_NORM_EPSILON}" in values:
        found["rms_norm_eps"] = values[f"{slug}.{LAYER_NORM_EPSILON}"].value
    embedding = tensors.get("token_embd.weight")
    if found["vocab_size"] is None and embedding is not None and len(embedding.shape) == 2:
        found["vocab_size"] = embedding.shape[0]
    if f"{slug}.attention.head_count_kv" not in values:
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
    named = {key.removeprefix(_NAMED_TEMPLATE): values[key].value for key in values if key.startswith(_NAMED_TEMPLATE)}
    templates = {name: text for name, text in named.items() if isinstance(text, str)}
    if templates:
        found["chat_templates"] = templates
    return found


def _hf_tokenizer(text: str, warnings: list[str]) -> dict[str, Any] | None:
    """The JSON object; None, with a warning, for what is none."""
    raw = text.encode("utf-8", "surrogatepass")
    try:
        return read_json(lambda: raw, f"metadata {HF_TOKENIZER}", 0, len(raw))
    except CheckpointError as error:
        warnings.append(f"{error.found}; it is not used")
        return None


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
