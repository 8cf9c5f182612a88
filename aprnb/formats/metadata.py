"""The JSON metadata object: bounded reading, and keys in several spellings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aprnb.formats.fields import TYPED
from aprnb.formats.json_memory import MAX_VALUES
from aprnb.formats.json_text import Read, read_json

ALIASES: dict[str, tuple[str, ...]] = {key: row.apr_aliases for key, row in TYPED.items() if row.apr_aliases}
"""Canonical key → other spellings of it that writers have used."""


def read_metadata(
    read: Read, path: object, offset: int, size_bytes: int, values: int = MAX_VALUES
) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
    """The object, and each key that it repeats with whether two of its values disagree.

    Of a repeated key the last value that is not null is kept. The arguments and errors are those of `read_json`.
    """
    repeated: list[tuple[str, bool]] = []

    def merge(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        merged = dict(pairs)
        if len(merged) < len(pairs):
            merged = {}
            for key, value in pairs:
                if key in merged:
                    kept = merged[key]
                    repeated.append((key, not (kept is None or value is None or same(kept, value))))
                if value is not None or key not in merged:
                    merged[key] = value
        return merged

    parsed = read_json(read, f"metadata of {path}", offset, size_bytes, values, merge)
    return parsed, repeated


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values state the same; numbers may differ by the rounding to float32."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
        return bool(one == other) or math.isclose(_number(one), _number(other), rel_tol=1e-7)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return type(one) is type(other) and bool(one == other)


def _number(value: float) -> float:
    return float(value) if abs(value) < 1e300 else math.inf


def lookup(metadata: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
    """The spelling and value of a canonical key, or None where every spelling is absent or null."""
    for spelling in (key, *ALIASES.get(key, ())):
        if metadata.get(spelling) is not None:
            return spelling, metadata[spelling]
    return None
