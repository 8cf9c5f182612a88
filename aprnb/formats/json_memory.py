"""How much memory a JSON takes when Python parses it, computed from its bytes and bounded before it is parsed.

A few MB of `{},{},…` become hundreds of MB of Python objects, while published tokenizers have 35 MB of JSON; so the
memory is bounded and not the length. Each estimate is an upper bound: first by length, then by counts of bytes, and
only where that exceeds the limit by measuring each text.
"""

from __future__ import annotations

import numpy as np

from aprnb.errors import CheckpointError
from aprnb.formats.json_bytes import BACKSLASH, COLON, COMMA, LIST, OBJECT, bounds_of_texts, byte_counts, with_escapes

MAX_VALUES = 3 << 18
"""Values that any file may hold, at 75 bytes of memory each; a larger file may take twice its size more."""
MOST_VALUES = 1 << 21
"""Values that no file may exceed, since each takes time; the largest published tokenizer makes 1.6 million."""
_VALUE_BYTES = 75
_NUMBER_BYTES, _TEXT_BYTES, _KEY_BYTES, _OBJECT_BYTES = 41, 100, 190, 264
"""Upper bounds of the memory of a number, of a list or a text without its letters, of a key without its text (its pair,
its place in the object and in the parser's memo), and of an object."""
_ADDED_TOKEN = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
"""Keys that tokenizers repeat for each of several thousand added tokens; Python keeps equal keys once."""
_REPEATED_KEY_BYTES, _CONSTANT_BYTES = 165, 9
"""Upper bounds of the memory of a key that was met before, its text included, and of true, false and null."""
_MOST_PER_BYTE = 50
"""Bytes of memory for one of JSON: `{},` takes 88 for three, a key of its own 300 for seven."""
_WIDE_BYTES = 24 << 20
"""A character of Python text takes as much as its widest: one emoji makes four bytes of each letter of a large JSON."""


def bound_memory(raw: bytes | bytearray, values: int, size_bytes: int, what: str, offset: int) -> bool:
    """Raise CheckpointError where the JSON has more values than `values` and the file's `size_bytes` allow.

    Returns whether its text takes much less memory with `\\u` for what is not ASCII.
    """
    allowed = 2 * size_bytes + _VALUE_BYTES * values
    if _is_surely_small(raw, allowed):
        return False
    counts = byte_counts(raw)
    wide = _is_wide(raw) and _text_bytes(counts, True) <= _text_bytes(counts, False)
    _bound_values(raw, counts, wide, max(values, MOST_VALUES), allowed, what, offset)
    return wide


def _is_surely_small(raw: bytes | bytearray, allowed: int) -> bool:
    """Whether no JSON of this length exceeds `allowed` bytes of memory or takes long; others are counted."""
    if len(raw) > 4 * MOST_VALUES or _MOST_PER_BYTE * len(raw) > allowed:
        return False
    letters = np.frombuffer(raw, np.uint8)
    slow = ((LIST, 2), (OBJECT, 6), (COLON, 4))
    return sum(weight * int(np.count_nonzero(letters == sign)) for sign, weight in slow) <= MOST_VALUES


def _bound_values(
    raw: bytes | bytearray, counts: np.ndarray, wide: bool, most: int, allowed: int, what: str, offset: int
) -> None:
    """Raises before parsing where the JSON holds more than `most` values, or takes more than `allowed` bytes of memory.

    A comma or bracket precedes each value. Measured by time, a key counts as three more, a list as one and an object
    as five more.
    """
    found, keys = int(counts[[COMMA, LIST, OBJECT]].sum()), int(counts[COLON])
    count = found + 3 * keys + int(counts[LIST]) + 5 * int(counts[OBJECT])
    if count > most:
        raise CheckpointError(
            f"{what} holds about {count:,} values", expected=f"at most {most:,}", where=f"byte {offset:,}"
        )
    text, escaped = _text_bytes(counts, wide), counts[BACKSLASH] and b"\\u" in raw
    need = text + (4 if escaped else 1) * _text_bytes(counts, False) + _TEXT_BYTES * found + _OBJECT_BYTES * keys
    if need > allowed:
        decoded = text if wide else _letter_bytes(counts) * len(raw)  # a letter for each byte, until all are decoded
        need = max(len(raw) + decoded, (1 + wide) * text, text + _parsed_bytes(raw, counts))
    if need > allowed:
        raise CheckpointError(
            f"{what} holds about {count:,} values, which take {need:,} bytes of memory",
            expected=f"at most {allowed:,} for a file of this size",
            where=f"byte {offset:,}",
        )


def _text_bytes(counts: np.ndarray, escaped: bool) -> int:
    """Memory for the JSON as Python text, as it is or with `\\u` for what is not ASCII."""
    # First bytes of UTF-8: from 0xC0 two or three bytes a character (`\\uXXXX`), from 0xF0 four (two escapes).
    plain, short, long = (int(part.sum()) for part in (counts[:0x80], counts[0xC0:0xF0], counts[0xF0:]))
    if escaped:
        return plain + 6 * short + 12 * long
    return (plain + short + long) * _letter_bytes(counts)


def _letter_bytes(counts: np.ndarray) -> int:
    """Memory for each character of a text in which these bytes occur, as Python text."""
    # One byte where all are up to U+00FF (in UTF-8, first bytes below 0xC4), two up to U+FFFF, else four.
    return 4 if counts[0xF0:].any() else 2 if counts[0xC4:].any() else 1


def _parsed_bytes(raw: bytes | bytearray, counts: np.ndarray) -> int:
    """Memory for the values of the JSON: texts by their widest character, the rest by the number of its kind."""
    texts, text_bytes = _texts(raw)
    lists, objects, keys = (int(counts[sign]) for sign in (LIST, OBJECT, COLON))
    others = max(0, int(counts[COMMA]) + lists + objects + keys - texts)
    # An integer has 4 bytes for each 9 digits after its fixed part; 3/5 of a byte a digit is above that.
    digits = int(counts[ord("0") : ord("9") + 1].sum()) * 3 // 5
    containers = _TEXT_BYTES * lists + _OBJECT_BYTES * objects + _KEY_BYTES * keys
    return text_bytes + containers + _NUMBER_BYTES * others + digits - _shared_bytes(raw)


def _shared_bytes(raw: bytes | bytearray) -> int:
    """How much less the values take, since Python keeps one of each constant and of each key."""
    # Where `:true` is in a text or follows no value, its colon was counted as a key, which is more than is taken off.
    constants = sum(map(raw.count, (b":true", b":false", b":null")))
    saved = constants * (_NUMBER_BYTES - _CONSTANT_BYTES)
    for key in map(str.encode, _ADDED_TOKEN):
        text_bytes = int(_text_sizes(np.array([len(key)]), np.array([0]))[0])
        repeats = raw.count(b'"%s":' % key) - raw.count(b'\\"%s":' % key) - 1  # the second ends a longer key
        saved += max(0, repeats) * (_KEY_BYTES + text_bytes - _REPEATED_KEY_BYTES)
    return saved


def _texts(raw: bytes | bytearray) -> tuple[int, int]:
    """How many texts a JSON holds, and the memory that they take.

    Quotes cut each part into stretches, alternately outside and inside a text; a stretch may continue in the next part.
    """
    letters = np.frombuffer(raw, np.uint8)
    count = total = 0
    inside, length, top = False, 0, 0
    for part, escapes, first_escaped in with_escapes(letters):
        tops = part.copy()  # an escape with `u` may be any character: it counts as the widest
        tops[escapes[part[np.minimum(escapes + 1, len(part) - 1)] == ord("u")]] = 0xFF
        if first_escaped:
            tops[0] = 0xFF
        quotes = np.flatnonzero(bounds_of_texts(part, escapes, first_escaped))
        # Characters before each byte: bytes that continue a character of UTF-8 begin with the bits 10.
        before = np.concatenate(([0], np.cumsum((part & 0xC0) != 0x80, dtype=np.int32)))
        lengths = np.diff(before[np.concatenate(([0], quotes, [len(part)]))])
        widest = np.maximum.reduceat(tops, np.concatenate(([0], quotes)))
        if len(quotes) and quotes[0] == 0:
            widest[0] = 0
        lengths[0] += length
        widest[0] = max(int(widest[0]), top)
        length, top = int(lengths[-1]), int(widest[-1])
        closed = slice(0 if inside else 1, len(quotes), 2)
        count += len(lengths[closed])
        total += int(_text_sizes(lengths[closed], widest[closed]).sum())
        inside ^= len(quotes) % 2 == 1
    return count, total


def _text_sizes(lengths: np.ndarray, widest: np.ndarray) -> np.ndarray:
    """Bytes that texts of so many characters take, with their place in a list, by their widest byte in UTF-8."""
    # A str of CPython: a header with the last NUL (in 3.11; smaller later) and its characters, in blocks of 16 bytes.
    widths = np.select([widest < 0xC4, widest < 0xF0], [1, 2], 4)
    bases = np.where(widest < 0x80, 49, 72 + widths)
    sizes: np.ndarray = (bases + widths * lengths + 15) // 16 * 16 + 9
    return sizes


def _is_wide(raw: bytes | bytearray) -> bool:
    """Whether its text would take much more memory than its bytes: most is ASCII, some is far from it."""
    top = int(np.frombuffer(raw, np.uint8).max(initial=0))
    width = 4 if top >= 0xF0 else 2 if top >= 0xC4 else 1
    return (width - 1) * len(raw) > _WIDE_BYTES
