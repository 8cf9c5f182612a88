"""An object of a stored JSON document, which is untrusted: each value is read with its type (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aprnb.errors import CheckpointError

_MOST = 1 << 62
"""Beyond every count and size of bytes; Python turns larger integers into neither floats nor text without an error."""
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class StoredObject:
    """`values` of the file `where`, at the dotted path `at` inside it.

    Each method raises CheckpointError that names the key where its value is missing or of another type.
    """

    values: Mapping[str, Any]
    where: str
    at: str = ""

    def integer(self, key: str, at_least: int = 0) -> int:
        """An integer from `at_least` on."""
        value = self._value(key)
        if type(value) is not int or not at_least <= value < _MOST:
            raise self._misfit(key, f"an integer, at least {at_least}")
        return value

    def number(self, key: str) -> float:
        """A finite number that is not negative."""
        value = self._value(key)
        if type(value) not in (int, float) or not 0 <= value < _MOST:
            raise self._misfit(key, "a number, at least 0")
        return float(value)

    def text(self, key: str) -> str:
        """A string."""
        value = self._value(key)
        if not isinstance(value, str):
            raise self._misfit(key, "text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._value(key)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self._misfit(key, "a list of texts")
        return tuple(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers from 0 on."""
        value = self._value(key)
        items = value if isinstance(value, list | tuple) else [None]
        if not all(type(item) is int and 0 <= item < _MOST for item in items):
            raise self._misfit(key, "a list of integers, at least 0")
        return tuple(items)

    def inner(self, key: str) -> StoredObject:
        """The object at `key`."""
        value = self._value(key)
        if not isinstance(value, Mapping):
            raise self._misfit(key, "an object")
        return StoredObject(value, self.where, f"{self.at}{key}.")

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise CheckpointError(
                f"{self.where} has no {self.at}{key}", action="the file is damaged, or of another version"
            )
        return self.values[key]

    def _misfit(self, key: str, expected: str) -> CheckpointError:
        value = self.values[key]
        found = _KINDS.get(type(value)) or str(value)[:40]
        return CheckpointError(f"{self.where}: {self.at}{key} is {found}", expected=expected)
