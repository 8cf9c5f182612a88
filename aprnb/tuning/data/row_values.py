"""Values of training rows: their types and texts, and the error of a row that cannot be used (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class BadRow(Exception):
    """Why a row cannot be used, and what to do; `read_rows` adds which row it is."""

    def __init__(self, reason: str, action: str = "") -> None:
        super().__init__(reason)
        self.action = action


def as_list(value: Any) -> Any:
    """An array as a list: data frames contain arrays."""
    return value.tolist() if hasattr(value, "tolist") else value


def read_text(value: Any, what: str) -> str:
    """`value` where it is text that UTF-8 can encode."""
    if not isinstance(value, str):
        raise BadRow(f"{what} is {json_type(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"{what} contains half a surrogate pair, which is not a character") from None
    return value


def json_type(value: Any) -> str:
    """What JSON calls the type of `value`."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def note_keys(value: Mapping[Any, Any], known: Sequence[str], prefix: str, ignored: dict[str, None]) -> None:
    """Adds the keys of `value` that are not `known` and not empty to `ignored`."""
    for key, content in value.items():
        if key not in known and not is_empty(content):
            ignored[f"{prefix}{key}"] = None


def require_no(value: Mapping[Any, Any], keys: Sequence[str], where: str) -> None:
    """Raises BadRow for a key of `keys` that has a value: to ignore it would change what the row means."""
    for key in keys:
        if not is_empty(value.get(key)):
            raise BadRow(f"{where} has {key!r}, which is not supported", f"remove the rows with {key}, or the key")


def is_empty(value: Any) -> bool:
    """Whether it is null, or an empty text or list."""
    return value is None or (hasattr(value, "__len__") and not isinstance(value, Mapping) and len(value) == 0)
