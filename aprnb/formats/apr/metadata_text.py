"""Encodes metadata byte for byte as the format's own writers do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from aprnb.errors import OutputError
from aprnb.formats.fields import TYPED
from aprnb.formats.metadata import ALIASES

Order = Literal["typed", "given"]


@dataclass(frozen=True, slots=True)
class Kind:
    """The JSON type of a typed key: its name for messages, and a test."""

    name: str
    accepts: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


_TEXT = Kind("text", lambda value: isinstance(value, str))
_INTEGER = Kind("a whole number that is not negative", _is_integer)
_NUMBER = Kind("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
_OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))

_OF_FIELDS = {"integer": _INTEGER, "number": _NUMBER}
_OF_OTHERS = {
    **dict.fromkeys(("total_size", "param_count", "rope_type"), _INTEGER),
    **dict.fromkeys(("quantization", "sharding", "special_tokens"), _OBJECT),
}
_ORDER = """model_type name description author license data_source data_license version source original_format
    created_at total_size param_count quantization sharding chat_template chat_format special_tokens architecture
    hf_architecture hf_model_type hidden_size num_layers num_heads num_kv_heads vocab_size intermediate_size
    max_position_embeddings rope_theta rope_type rms_norm_eps head_dim num_experts num_experts_per_tok
    moe_intermediate_size"""

KINDS: dict[str, Kind] = {
    key: _OF_FIELDS[TYPED[key].kind] if key in TYPED else _OF_OTHERS.get(key, _TEXT) for key in _ORDER.split()
}
"""The typed keys in the order in which the format writes them; its reader rejects a value of another type."""

ALWAYS_WRITTEN: dict[str, Any] = {
    "model_type": "",
    "license": None,
    "data_source": None,
    "data_license": None,
    "total_size": 0,
    "param_count": 0,
}
"""Typed keys that are always written, with their default values."""

_SINGLE = tuple(key for key, field in TYPED.items() if field.kind == "number")


def encode_metadata(metadata: Mapping[str, Any], order: Order = "typed") -> bytes:
    """Compact UTF-8 JSON: typed keys in the format's order, then the others by name; or all keys in the order given.

    Raises OutputError for what the format's reader rejects: a typed key of another type, a key and its alias, a
    number that is not finite.
    """
    _require_writable(metadata)
    if order == "given":
        chosen = dict(metadata)
    else:
        typed = [key for key in KINDS if key in metadata or key in ALWAYS_WRITTEN]
        chosen = {key: metadata.get(key, ALWAYS_WRITTEN.get(key)) for key in typed}
        chosen |= {key: metadata[key] for key in sorted(metadata) if key not in chosen}
    try:
        parts = [f"{_json(key)}:{_json(value, single=key in _SINGLE)}" for key, value in chosen.items()]
    except RecursionError:
        raise OutputError("the metadata are nested too deeply", expected="a few hundred levels at most") from None
    return f"{{{','.join(parts)}}}".encode()


def _require_writable(metadata: Mapping[str, Any]) -> None:
    for key, kind in KINDS.items():
        value = metadata.get(key)
        if key not in metadata or kind.accepts(value) or (value is None and ALWAYS_WRITTEN.get(key) is None):
            continue
        raise OutputError(f"metadata {key} is {str(value)[:40]!r}", expected=kind.name)
    for canonical, aliases in ALIASES.items():
        present = [spelling for spelling in (canonical, *aliases) if spelling in metadata]
        if len(present) > 1:
            raise OutputError(
                f"metadata spell {canonical} in {len(present)} ways: {', '.join(present)}",
                expected="one spelling: readers of the format drop all metadata otherwise",
            )


_NESTED = (float, Mapping, list, tuple)
"""What `json` writes otherwise than the format's writers, or may contain."""


def _json(value: Any, single: bool = False) -> str:
    if isinstance(value, float):
        return _float_text(value, single)
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_json(str(key))}:{_json(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple) and any(issubclass(kind, _NESTED) for kind in set(map(type, value))):
        return f"[{','.join(map(_json, value))}]"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _float_text(value: float, single: bool) -> str:
    """The shortest digits that read back equal, laid out as the format's writers do.

    They are Rust programs: plain notation for 1e-5 ≤ |x| < 1e16, in float32 fields for 1e-6 ≤ |x| < 1e13, with ".0"
    after whole numbers; else an exponent without sign and zeros.
    """
    if not math.isfinite(value):
        raise OutputError(f"metadata hold the number {value}", expected="a finite one: JSON has no other")
    single = single and float(str(np.float32(value))) == value
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text, point = "".join(map(str, digits)), len(digits) + int(exponent)
    low, high = (-6, 13) if single else (-5, 16)
    minus = "-" if sign else ""
    if value == 0:
        return f"{minus}0.0"
    if not low < point <= high:
        head = text[0] + (f".{text[1:]}" if len(text) > 1 else "")
        return f"{minus}{head}e{point - 1}"
    if point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    text = text.ljust(point, "0")
    return f"{minus}{text[:point]}.{text[point:] or '0'}"
