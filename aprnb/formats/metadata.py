"""The JSON metadata object: bounded reading, the spellings that mean the same, the order in which we write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aprnb.errors import CheckpointError

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_dim", "d_model", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_heads", "n_head"),
    "num_kv_heads": ("num_key_value_heads", "n_kv_heads"),
    "vocab_size": ("n_vocab",),
    "intermediate_size": ("ffn_dim", "intermediate_dim", "n_inner"),
    "max_position_embeddings": ("max_seq_len", "context_length", "n_ctx"),
    "rms_norm_eps": ("layer_norm_eps", "norm_eps", "eps"),
}
"""Canonical key → other spellings of the same fact that writers have used."""

_TYPED_ORDER = (
    "model_type name description author license data_source data_license version source original_format created_at"
    " total_size param_count quantization sharding chat_template chat_format special_tokens architecture"
    " hf_architecture hf_model_type hidden_size num_layers num_heads num_kv_heads vocab_size intermediate_size"
    " max_position_embeddings rope_theta rope_type rms_norm_eps head_dim num_experts num_experts_per_tok"
    " moe_intermediate_size"
).split()
_ALWAYS: dict[str, Any] = {
    "model_type": "",
    "license": None,
    "data_source": None,
    "data_license": None,
    "total_size": 0,
    "param_count": 0,
}


def read_metadata(raw: bytes | bytearray, path: object, offset: int) -> tuple[dict[str, Any], list[str]]:
    """The object and what was odd about it; of a repeated key the last value that is not null counts."""
    repeated: list[str] = []

    def merge(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        merged = dict(pairs)
        if len(merged) < len(pairs):
            merged = {}
            for key, value in pairs:
                if key in merged:
                    repeated.append(key)
                if value is not None or key not in merged:
                    merged[key] = value
        return merged

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=merge, parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise _unreadable(path, "not UTF-8", offset + error.start) from None
    except json.JSONDecodeError as error:
        raise _unreadable(path, f"not JSON ({error.msg})", offset + len(error.doc[: error.pos].encode())) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _unreadable(path, reason, offset) from None
    if b"\\ud" in raw.lower() and not _encodable(parsed):
        raise _unreadable(path, "not Unicode: it holds half of a surrogate pair", offset)
    if not isinstance(parsed, dict):
        raise _unreadable(path, f"a JSON {type(parsed).__name__}", offset, expected="an object")
    return parsed, [f"metadata lists {key} more than once; the last value that is not null counts" for key in repeated]


def _unreadable(path: object, reason: str, at: int, expected: str | None = None) -> CheckpointError:
    return CheckpointError(f"metadata of {path} is {reason}", expected=expected, where=f"byte {at:,}")


def _encodable(parsed: Any) -> bool:
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def lookup(metadata: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
    """The spelling and value of a canonical key, or None where every spelling is absent or null."""
    for spelling in (key, *ALIASES.get(key, ())):
        if metadata.get(spelling) is not None:
            return spelling, metadata[spelling]
    return None


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON: typed keys in the format's order, then the others by name; absent options are left out."""
    typed = {key: metadata.get(key, _ALWAYS.get(key)) for key in _TYPED_ORDER if key in metadata or key in _ALWAYS}
    others = {key: metadata[key] for key in sorted(metadata) if key not in typed}
    text = json.dumps(typed | others, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")
