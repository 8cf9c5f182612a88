"""Reads the part of a GGUF file before its tensor data on demand: numbers and strings, all little-endian.

Layout: a string is its length in bytes (u64, in version 1 u32) and its UTF-8. Nothing is allocated for a length or a
count that the rest of the file cannot hold.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb.formats.source import ByteSource

MAX_FRONT_BYTES = 256 << 20
MAX_KEY_BYTES = 65_535
MAX_TENSORS = MAX_KEYS = 1 << 16
MAX_TEXTS_BYTES = 40 << 20
"""Memory for all texts and numbers, in addition to the file's own size (the largest published vocabulary needs
78 MiB)."""

_FIRST_READ_BYTES, _AHEAD_BYTES = 64 << 10, 4 << 20
_SHORT_LIST = 256
_TOGETHER = 1 << 13
"""Strings that are read at once; the arrays for it take up to 60 bytes of memory for each byte of the strings."""


@dataclass
class Budget:
    """What is left of the limits, which all files of a model share; each file adds its own size to the bytes."""

    tensors: int = MAX_TENSORS
    keys: int = MAX_KEYS
    texts_bytes: int = field(default_factory=lambda: MAX_TEXTS_BYTES)


class Front:
    """A cursor over the bytes before the tensor data; `version` decides how wide lengths and counts are."""

    def __init__(self, source: ByteSource, budget: Budget) -> None:
        self.source, self.version, self.budget = source, 3, budget
        self.position = 0
        self._buffer = bytearray()
        self._own_bytes = source.size_bytes

    def error(self, found: str, *, expected: str | None = None, at: int | None = None) -> CheckpointError:
        """The error for what is at byte `at` (the cursor where not given)."""
        where = f"byte {self.position if at is None else at:,}"
        action = "the file is damaged, or made by a faulty writer: copy or download it again"
        return CheckpointError(f"{self.source.path}: {found}", expected=expected, where=where, action=action)

    def require(self, size_bytes: int, what: str) -> None:
        """Reads the next `size_bytes` bytes into the buffer; raises TruncatedFile where the file ends before."""
        have = len(self._buffer)
        missing = self.position + size_bytes - have
        if missing <= 0:
            return
        if have + missing > self.source.size_bytes:
            raise TruncatedFile(
                f"{self.source.path} ends at byte {self.source.size_bytes:,}, inside {what}",
                expected=f"bytes {self.position:,} to {self.position + size_bytes:,}",
            )
        if have + missing > MAX_FRONT_BYTES:
            raise self.error(f"{what} reaches beyond byte {MAX_FRONT_BYTES:,}", expected="metadata that ends before it")
        # As much again as was read before: few reads for a front of any size, and a small one is not exceeded by much.
        ahead = min(max(have, _FIRST_READ_BYTES), _AHEAD_BYTES, self.source.size_bytes - have)
        self._buffer += self.source.read(have, max(missing, ahead), what)

    def number(self, code: str, what: str) -> Any:
        """One little-endian number of a `struct` type code."""
        return self.numbers(code, what)[0]

    def numbers(self, codes: str, what: str) -> tuple[Any, ...]:
        """Several such numbers."""
        form = _form(codes)
        start = self.position
        if start + form.size > len(self._buffer):
            self.require(form.size, what)
        self.position = start + form.size
        return form.unpack_from(self._buffer, start)

    def array(self, code: str, count: int, what: str) -> list[Any]:
        """A list of `count` numbers of one type; raises where they would take too much memory."""
        form = np.dtype(code).newbyteorder("<")
        self.require(count * form.itemsize, what)
        values = np.frombuffer(self._buffer, form, count, self.position)
        small = int(((values >= -5) & (values <= 256)).sum()) if form.kind in "iu" else 0  # Python keeps one of each
        self._charge(8 * count + (32 if form.itemsize < 8 else 48) * (count - small), what, "numbers")
        self.position += count * form.itemsize
        found: list[Any] = values.tolist()
        return found

    def count(self, what: str, least_bytes: int) -> int:
        """A length or count; raises where the rest of the file cannot hold so many parts of `least_bytes`."""
        at = self.position
        count = self._length(what)
        room = self.source.size_bytes - self.position
        if count * least_bytes > room:
            most = room // least_bytes
            raise self.error(f"{what} is {count:,}", expected=f"at most {most:,}, what the file can hold", at=at)
        return count

    def text(self, what: str, most_bytes: int) -> str | None:
        """A string; None for one longer than `most_bytes`, which is skipped."""
        size = self._length(what)
        start = self.position
        if start + size > len(self._buffer):
            self.require(size, what)
        self.position = start + size
        if size > most_bytes:
            return None
        text = self._decoded(start, size, what)
        self._charge(sys.getsizeof(text) + 8, what)
        return text

    def _length(self, what: str) -> int:
        return int(self.numbers("I" if self.version == 1 else "Q", what)[0])

    def name(self, what: str) -> str:
        """A string that names something; raises for one that is too long or not UTF-8."""
        at = self.position
        text = self.text(what, MAX_KEY_BYTES)
        if text is None:
            raise self.error(f"{what} is too long", expected=f"at most {MAX_KEY_BYTES:,} bytes", at=at)
        return text

    def texts(self, key: str) -> list[str]:
        """A list of strings, after its count."""
        count = self.count(f"the element count of {key}", 4 if self.version == 1 else 8)
        found: list[str] = []
        most = _TOGETHER
        while len(found) < count:
            together = min(count - len(found), most)
            start, is_long = self.position, self.version > 1 and together > _SHORT_LIST
            texts = self._short_texts(together, key) if is_long else self._walked(together, key, len(found))
            if texts is None:  # one odd string is enough: it is looked for in smaller parts
                most = together // 8
                continue
            most = min(_TOGETHER, 2 * most)
            self._charge(self._held(texts, self.position - start), key)
            found += texts
        return found

    def _held(self, texts: list[str], read_bytes: int) -> int:
        """What `texts` that were read from so many bytes take in memory, or a bound that is small enough."""
        # A string takes at most 76 bytes and four for each character, of which there are no more than bytes in UTF-8.
        most = (76 + 4 + 8) * len(texts) + 4 * read_bytes
        if most <= self._own_bytes:
            return most
        return sum(map(sys.getsizeof, texts)) + 8 * len(texts)

    def _charge(self, size_bytes: int, key: str, what: str = "texts") -> None:
        own = min(size_bytes, self._own_bytes)
        self._own_bytes -= own
        self.budget.texts_bytes -= size_bytes - own
        if self.budget.texts_bytes < 0:
            most = MAX_TEXTS_BYTES + self.source.size_bytes
            raise self.error(f"{what} take too much memory (at {key})", expected=f"at most {most:,} bytes")

    def _walked(self, count: int, key: str, first: int) -> list[str]:
        """The next strings of a list, one by one; `first` is the number of the first of them."""
        width, read = (4, struct.Struct("<I")) if self.version == 1 else (8, struct.Struct("<Q"))
        found = []
        for at in range(first, first + count):
            if self.position + width > len(self._buffer):
                self.require(width, f"{key}[{at}]")
            (size,) = read.unpack_from(self._buffer, self.position)
            if size > MAX_KEY_BYTES:
                raise self.error(f"{key}[{at}] is too long", expected=f"at most {MAX_KEY_BYTES:,} bytes")
            self.position += width
            if self.position + size > len(self._buffer):
                self.require(size, f"{key}[{at}]")
            try:
                found.append(self._buffer[self.position : self.position + size].decode("utf-8"))
            except UnicodeDecodeError as error:
                raise self.error(f"{key}[{at}] is not UTF-8", at=self.position + error.start) from None
            self.position += size
        return found

    def _short_texts(self, count: int, key: str) -> list[str] | None:
        """All strings at once where each has 1 to 255 bytes and no NUL; None where they must be read one by one.

        A vocabulary with its merges is several 100,000 strings of a few bytes: numpy takes less than half the time of
        a loop over them.
        """
        # A length below 256 is one byte and seven zeros. With no NUL in a string all zeros belong to lengths, so that
        # `zeros[::7] - 1` are the places of the lengths' first bytes.
        window, longest = 16 * count, (8 + 255) * count
        while True:
            self.require(min(window, self.source.size_bytes - self.position), key)
            zeros = self._zeros(7 * count, window)
            whole = len(zeros) == 7 * count and zeros[-1] + 256 <= window
            if whole or window >= min(longest, self.source.size_bytes - self.position) or self._odd(zeros):
                break
            window *= 2
        if len(zeros) < 7 * count or self._odd(zeros):
            return None
        heads = zeros[::7] - 1
        data = np.frombuffer(self._buffer, np.uint8, offset=self.position)
        ends = heads + 8 + data[heads]
        # Each string must end where the next length starts: that is all that reading one by one would check.
        if heads[0] != 0 or (ends[:-1] != heads[1:]).any() or ends[-1] > len(data):
            return None
        # A NUL in place of each length's first byte, without its zeros: one decode and one split give all strings.
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

    def _zeros(self, count: int, window: int) -> np.ndarray:
        """Where the first `count` zero bytes of the `window` bytes from the cursor on are."""
        data = np.frombuffer(self._buffer, np.uint8, offset=self.position)[:window]
        return np.flatnonzero(data == 0)[:count]

    @staticmethod
    def _odd(zeros: np.ndarray) -> bool:
        """Whether zero bytes are not in runs of seven."""
        runs = zeros[: len(zeros) // 7 * 7]
        return bool((runs[6::7] - runs[::7] != 6).any())

    def _decoded(self, start: int, size_bytes: int, what: str) -> str:
        try:
            return self._buffer[start : start + size_bytes].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", at=start + error.start) from None


@cache
def _form(codes: str) -> struct.Struct:
    """The layout of numbers of these codes; a file's keys and tensors need about thirty different ones."""
    return struct.Struct(f"<{codes}")
