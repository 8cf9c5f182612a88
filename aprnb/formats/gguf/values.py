"""The values of a GGUF file's keys: scalars, strings, and arrays that may hold arrays.

Layout: an array is its element type (u32), its count (u64, in version 1 u32) and its elements.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprnb.formats.gguf.front import Front

MAX_TEXT_BYTES = 1 << 20
MAX_NUMBERS = 1 << 20
MAX_NESTED = 4096
MAX_DEPTH = 4
_SHORT_ARRAY = 256

STRING, ARRAY = 8, 9
SCALARS: dict[int, tuple[str, str]] = {
    0: ("uint8", "B"), 1: ("int8", "b"), 2: ("uint16", "H"), 3: ("int16", "h"), 4: ("uint32", "I"), 5: ("int32", "i"),
    6: ("float32", "f"), 7: ("bool", "B"), 10: ("uint64", "Q"), 11: ("int64", "q"), 12: ("float64", "d"),
}  # fmt: skip
"""Code of a type → its name and its `struct` letter."""


@dataclass(frozen=True, slots=True)
class GgufValue:
    """A value under its key: `kind` is the GGUF type's name (`uint32`, `string`, `array[string]`).

    Single float32 are the shortest numbers that read back to the stored ones; integers are exact. `value` is None for a
    text that is too long to keep.
    """

    kind: str
    value: Any


class Values:
    """Reads one value after the other; all arrays together hold a bounded number of elements."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._numbers_left, self._nested_left = MAX_NUMBERS, MAX_NESTED

    def read(self, key: str) -> GgufValue:
        """The type and value of `key`."""
        code = int(self._front.number("I", f"the type of {key}"))
        if code == STRING:
            return GgufValue("string", self._front.text(key, MAX_TEXT_BYTES))
        if code == ARRAY:
            return self._array(key, 1)
        return self._scalar(code, key)

    def _scalar(self, code: int, key: str) -> GgufValue:
        kind, letter = self._kind(code, key)
        at = self._front.position
        value = self._front.number(letter, key)
        if code == 7:
            if value > 1:
                raise self._front.error(f"{key} is the boolean {value}", expected="0 or 1", at=at)
            value = bool(value)
        return GgufValue(kind, shortest(value) if code == 6 else value)

    def _kind(self, code: int, key: str) -> tuple[str, str]:
        if code not in SCALARS:
            raise self._front.error(f"{key} has value type {code}", expected="0 to 12", at=self._front.position - 4)
        return SCALARS[code]

    def _array(self, key: str, depth: int) -> GgufValue:
        if depth > MAX_DEPTH:
            raise self._front.error(f"{key} nests arrays more than {MAX_DEPTH} deep")
        code = int(self._front.number("I", f"the element type of {key}"))
        if code == STRING:
            return GgufValue("array[string]", self._front.texts(key))
        if code == ARRAY:
            return self._nested(key, depth)
        kind, letter = self._kind(code, key)
        count = self._front.count(f"the element count of {key}", struct.calcsize(letter))
        self._numbers_left = self._spend(self._numbers_left, count, key, "numbers", MAX_NUMBERS)
        values = self._front.array(letter, count, key)
        if code == 6 and count <= _SHORT_ARRAY:
            values = [shortest(value) for value in values]
        return GgufValue(f"array[{kind}]", [bool(value) for value in values] if code == 7 else values)

    def _nested(self, key: str, depth: int) -> GgufValue:
        count = self._front.count(f"the element count of {key}", 12 if self._front.version > 1 else 8)
        self._nested_left = self._spend(self._nested_left, count, key, "arrays", MAX_NESTED)
        parts = [self._array(key, depth + 1) for _ in range(count)]
        return GgufValue("array[array]", [part.value for part in parts])

    def _spend(self, left: int, count: int, key: str, what: str, limit: int) -> int:
        if count > left:
            raise self._front.error(
                f"{key} holds {count:,} {what}", expected=f"at most {limit:,} in all arrays together"
            )
        return left - count


def shortest(value: float) -> float:
    """A float32 as the shortest number that reads back to it: 1e-06 for 9.999999974752427e-07. Integers are exact."""
    single = np.float32(value)
    return float(single if single.is_integer() else str(single))
