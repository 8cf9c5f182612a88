"""The front of a GGUF file, read as far as it is asked for: numbers, strings and arrays, all little-endian.

Layouts: a string is its length in bytes (u64, in version 1 u32) and its UTF-8; an array is its element type (u32), its
count (u64, in version 1 u32) and its elements. Nothing is allocated for a count that the rest of the file cannot hold.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb.formats.source import ByteSource

MAX_FRONT_BYTES = 256 << 20
MAX_KEY_BYTES = 65_535
MAX_TEXT_BYTES = 1 << 20
MAX_STRINGS = 1 << 20
MAX_NUMBERS = 1 << 20
MAX_DEPTH = 4
_FIRST_READ_BYTES = 64 << 10
_SHORT_ARRAY = 256

STRING, ARRAY = 8, 9
_SCALARS: dict[int, tuple[str, str]] = {
    0: ("uint8", "B"), 1: ("int8", "b"), 2: ("uint16", "H"), 3: ("int16", "h"), 4: ("uint32", "I"), 5: ("int32", "i"),
    6: ("float32", "f"), 7: ("bool", "B"), 10: ("uint64", "Q"), 11: ("int64", "q"), 12: ("float64", "d"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufValue:
    """A value under its key: `kind` is the GGUF type's name (`uint32`, `string`, `array[string]`).

    Single float32 are the shortest numbers that read back to the stored ones. `value` is None for a text too long to
    keep.
    """

    kind: str
    value: Any


class Front:
    """A cursor over the bytes before the tensor data; `version` decides how wide lengths and counts are."""

    def __init__(self, source: ByteSource) -> None:
        self.source, self.version = source, 3
        self.position = 0
        self._buffer = bytearray()
        self._strings_left, self._numbers_left = MAX_STRINGS, MAX_NUMBERS

    def error(self, found: str, *, expected: str | None = None, at: int | None = None) -> CheckpointError:
        """The refusal of this file for what stands at byte `at` (the cursor where not given)."""
        where = f"byte {self.position if at is None else at:,}"
        action = "the file is damaged, or made by a faulty writer: copy or download it again"
        return CheckpointError(f"{self.source.path}: {found}", expected=expected, where=where, action=action)

    def require(self, size_bytes: int, what: str) -> None:
        """Makes the next `size_bytes` bytes available; raises TruncatedFile where the file ends before."""
        have = len(self._buffer)
        missing = self.position + size_bytes - have
        if missing <= 0:
            return
        if have + missing > self.source.size_bytes:
            raise TruncatedFile(
                f"{self.source.path} ends at byte {self.source.size_bytes:,}, inside {what}",
                expected=f"bytes {self.position:,} to {self.position + size_bytes:,}",
                action="copy or download the file again",
            )
        if have + missing > MAX_FRONT_BYTES:
            raise self.error(f"{what} reaches beyond byte {MAX_FRONT_BYTES:,}", expected="metadata that ends before it")
        ahead = min(max(have, _FIRST_READ_BYTES), self.source.size_bytes - have)
        self._buffer += self.source.read(have, max(missing, ahead), what)

    def number(self, code: str, what: str) -> Any:
        """One little-endian number of a `struct` type code."""
        size = struct.calcsize(code)
        self.require(size, what)
        (value,) = struct.unpack_from(f"<{code}", self._buffer, self.position)
        self.position += size
        return value

    def count(self, what: str, least_bytes: int) -> int:
        """A length or count, refused where the rest of the file cannot hold so many parts of `least_bytes`."""
        at = self.position
        count = int(self.number("I" if self.version == 1 else "Q", what))
        room = self.source.size_bytes - self.position
        if count * least_bytes > room:
            most = room // least_bytes
            raise self.error(f"{what} is {count:,}", expected=f"at most {most:,}, what the file can hold", at=at)
        return count

    def text(self, what: str, most_bytes: int) -> str | None:
        """A string; None where it is longer than `most_bytes`, which are then passed over."""
        size = int(self.number("I" if self.version == 1 else "Q", f"the length of {what}"))
        self.require(size, what)
        start = self.position
        self.position += size
        if size > most_bytes:
            return None
        return self._decoded(start, size, what)

    def name(self, what: str) -> str:
        """A string that names something; raises for one that is too long or not UTF-8."""
        at = self.position
        text = self.text(what, MAX_KEY_BYTES)
        if text is None:
            raise self.error(f"{what} is too long", expected=f"at most {MAX_KEY_BYTES:,} bytes", at=at)
        return text

    def value(self, key: str) -> GgufValue:
        """The type and value that stand under `key`."""
        code = int(self.number("I", f"the type of {key}"))
        if code == STRING:
            return GgufValue("string", self.text(key, MAX_TEXT_BYTES))
        if code == ARRAY:
            return self._array(key, 1)
        return self._scalar(code, key)

    def _scalar(self, code: int, key: str) -> GgufValue:
        kind, letter = self._kind(code, key)
        at = self.position
        value = self.number(letter, key)
        if code == 7:
            if value > 1:
                raise self.error(f"{key} is the truth value {value}", expected="0 or 1", at=at)
            value = bool(value)
        return GgufValue(kind, shortest(value) if code == 6 else value)

    def _kind(self, code: int, key: str) -> tuple[str, str]:
        if code not in _SCALARS:
            raise self.error(f"{key} has value type {code}", expected="0 to 12", at=self.position - 4)
        return _SCALARS[code]

    def _array(self, key: str, depth: int) -> GgufValue:
        if depth > MAX_DEPTH:
            raise self.error(f"{key} nests arrays more than {MAX_DEPTH} deep")
        code = int(self.number("I", f"the element type of {key}"))
        if code == STRING:
            return GgufValue("array[string]", self._texts(key))
        if code == ARRAY:
            return self._nested(key, depth)
        kind, letter = self._kind(code, key)
        count = self.count(f"the element count of {key}", struct.calcsize(letter))
        self._numbers_left = self._spend(self._numbers_left, count, key, "numbers", MAX_NUMBERS)
        size = count * struct.calcsize(letter)
        self.require(size, key)
        values = np.frombuffer(self._buffer, np.dtype(f"<{letter}"), count, self.position).tolist()
        self.position += size
        if code == 6 and count <= _SHORT_ARRAY:
            values = [shortest(value) for value in values]
        return GgufValue(f"array[{kind}]", [bool(value) for value in values] if code == 7 else values)

    def _nested(self, key: str, depth: int) -> GgufValue:
        count = self.count(f"the element count of {key}", 12 if self.version > 1 else 8)
        self._numbers_left = self._spend(self._numbers_left, count, key, "arrays", MAX_NUMBERS)
        parts = [self._array(key, depth + 1) for _ in range(count)]
        return GgufValue("array[array]", [part.value for part in parts])

    def _spend(self, left: int, count: int, key: str, what: str, limit: int) -> int:
        if count > left:
            raise self.error(f"{key} holds {count:,} {what}", expected=f"at most {limit:,} in all arrays together")
        return left - count

    def _texts(self, key: str) -> list[str]:
        count = self.count(f"the element count of {key}", 4 if self.version == 1 else 8)
        self._strings_left = self._spend(self._strings_left, count, key, "strings", MAX_STRINGS)
        if self.version > 1 and count > _SHORT_ARRAY:
            short = self._short_texts(count, key)
            if short is not None:
                return short
        return [self._element(at, key) for at in range(count)]

    def _element(self, at: int, key: str) -> str:
        start = self.position
        text = self.text(f"{key}[{at}]", MAX_KEY_BYTES)
        if text is None:
            raise self.error(f"{key}[{at}] is too long", expected=f"at most {MAX_KEY_BYTES:,} bytes", at=start)
        return text

    def _short_texts(self, count: int, key: str) -> list[str] | None:
        """All strings at once where each has 1 to 255 bytes and no NUL; None for those who must be read one by one.

        Then every zero byte belongs to a length: seven of them after each first byte. That the lengths lead from one
        string to the next is checked, which is what walking would do.
        """
        self.require(min(16 * count, self.source.size_bytes - self.position), key)
        while True:
            zeros = self._zeros(count)
            end = len(self._buffer)
            whole = len(zeros) == 7 * count and zeros[-1] + 256 <= end - self.position
            if whole or end == self.source.size_bytes or self._odd(zeros):
                break
            self.require(end - self.position + 1, key)
        if len(zeros) < 7 * count or self._odd(zeros):
            return None
        heads = zeros[::7] - 1
        data = np.frombuffer(self._buffer, np.uint8, offset=self.position)
        ends = heads + 8 + data[heads]
        if heads[0] != 0 or (ends[:-1] != heads[1:]).any() or ends[-1] > len(data):
            return None
        kept = np.ones(int(ends[-1]), bool)
        kept[zeros] = False
        marked = data[: len(kept)].copy()
        marked[heads] = 0
        try:
            texts = marked[kept].tobytes().decode("utf-8").split("\0")
        except UnicodeDecodeError:
            return None  # read one by one, so that the error can name its byte
        if len(texts) != count + 1:
            return None
        self.position += len(kept)
        return texts[1:]

    def _zeros(self, count: int) -> np.ndarray:
        """Where the first `7 · count` zero bytes from the cursor on are, as far as the buffer reaches."""
        data = np.frombuffer(self._buffer, np.uint8, offset=self.position)[: count * (8 + 255)]
        return np.flatnonzero(data == 0)[: 7 * count]

    @staticmethod
    def _odd(zeros: np.ndarray) -> bool:
        """Whether zero bytes stand otherwise than in runs of seven."""
        runs = zeros[: len(zeros) // 7 * 7]
        return bool((runs[6::7] - runs[::7] != 6).any())

    def _decoded(self, start: int, size_bytes: int, what: str) -> str:
        try:
            return self._buffer[start : start + size_bytes].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", at=start + error.start) from None


def shortest(value: float) -> float:
    """A float32 as the shortest number that reads back to it: 1e-06 for 9.999999974752427e-07."""
    return float(str(np.float32(value)))
