"""JSON from untrusted files: bounded before it is parsed, every error with its byte."""

from __future__ import annotations

import codecs
import json
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from aprnb.errors import CheckpointError

MAX_VALUES = 3 << 18
"""Values that any file may hold, at 75 bytes of memory each; a larger file may take twice its size more."""
MOST_VALUES = 1 << 21
"""Values that no file may exceed, since each takes time; the largest published tokenizer makes 1.6 million."""
_VALUE_BYTES = 75
_NUMBER_BYTES, _TEXT_BYTES, _KEY_BYTES, _OBJECT_BYTES = 41, 100, 190, 264
"""Upper bounds of the memory of a number, of a list or a text without its letters, of a key beside its text (its pair,
its place in the object and in the parser's memo), and of an object."""
_MOST_PER_BYTE = 50
"""Bytes of memory for one of JSON: `{},` takes 88 for three, a key of its own 300 for seven."""
_WIDE_BYTES = 24 << 20
"""A character of Python text takes as much as its widest: one emoji makes four bytes of each letter of a large JSON."""
_CHUNK_BYTES = 1 << 20
_CACHED_BYTES = 1 << 17
_QUOTE, _BACKSLASH, _LIST, _OBJECT, _COMMA, _COLON = b'"\\[{,:'
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_LARGEST = sys.float_info.max

Read = Callable[[], bytes | bytearray]
"""Reads the JSON's bytes, each time anew: they need not stay while the text and its values are in memory."""

Pairs = Callable[[list[tuple[str, Any]]], dict[str, Any]]


def read_json(
    read: Read, what: str, offset: int, size_bytes: int, values: int = MAX_VALUES, pairs: Pairs = dict
) -> dict[str, Any]:
    """The JSON object that `read` gives; `what` says in errors what it is, and `offset` where it starts in its file.

    `pairs` makes each object. Raises CheckpointError where the bytes are no object, or hold more values than `values`
    and the file's `size_bytes` justify.
    """
    wide = halved = False
    allowed = 2 * size_bytes + _VALUE_BYTES * values
    try:
        raw = read()
        if not _is_surely_small(raw, allowed):
            counts = _counts(raw)
            wide = _is_wide(raw) and _text_bytes(counts, True) <= _text_bytes(counts, False)
            _bound_values(raw, counts, wide, max(values, MOST_VALUES), allowed, what, offset)
        halved = _has_half_a_pair(raw)
        if wide:
            raw = _narrowed(raw)
        text = raw.decode("utf-8")
        del raw
        parsed = json.loads(text, object_pairs_hook=pairs, parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise _unreadable(what, "not UTF-8", offset + error.start) from None
    except json.JSONDecodeError as error:
        place = _byte_of(read(), error.pos) if wide else len(error.doc[: error.pos].encode())
        raise _unreadable(what, f"not JSON ({error.msg})", offset + place) from None
    except _BeyondJson as error:
        raise _unreadable(what, f"not JSON ({error})", offset) from None
    except RecursionError:
        raise _unreadable(what, "nested too deeply", offset) from None
    except ValueError:  # Python's bound on integers, whose message speaks to programmers
        raise _unreadable(
            what, f"beyond use: an integer in it has over {sys.get_int_max_str_digits():,} digits", offset
        ) from None
    if halved:
        raise _unreadable(what, "not Unicode: it holds half of a surrogate pair", offset)
    if not isinstance(parsed, dict):
        kind = "JSON's null" if parsed is None else f"a JSON {type(parsed).__name__}"
        raise _unreadable(what, kind, offset, expected="an object")
    return parsed


class _BeyondJson(ValueError):
    """A number that Python's reader takes and JSON does not have."""


def _refuse(constant: str) -> Any:
    raise _BeyondJson(f"it has no {constant}")


def _finite(text: str) -> float:
    """The number, unless it is one that only Python's reader takes for infinity (1e999)."""
    value = float(text)
    if -_LARGEST <= value <= _LARGEST:
        return value
    raise _BeyondJson(f"{text[:20]} is beyond every floating-point number")


def _unreadable(what: str, reason: str, at: int, expected: str | None = None) -> CheckpointError:
    return CheckpointError(f"{what} is {reason}", expected=expected, where=f"byte {at:,}")


def _counts(raw: bytes | bytearray) -> np.ndarray:
    """How often each of the 256 bytes occurs."""
    letters, found = np.frombuffer(raw, np.uint8), np.zeros(256, np.int64)
    for start in range(0, len(letters), _CACHED_BYTES):
        found += np.bincount(letters[start : start + _CACHED_BYTES], minlength=256)
    return found


def _is_surely_small(raw: bytes | bytearray, allowed: int) -> bool:
    """Whether no JSON of this length takes more than `allowed` bytes of memory, or long; the rest is counted."""
    if len(raw) > 4 * MOST_VALUES or _MOST_PER_BYTE * len(raw) > allowed:
        return False
    letters = np.frombuffer(raw, np.uint8)
    slow = ((_LIST, 2), (_OBJECT, 6), (_COLON, 4))
    return sum(weight * int(np.count_nonzero(letters == sign)) for sign, weight in slow) <= MOST_VALUES


def _bound_values(
    raw: bytes | bytearray, counts: np.ndarray, wide: bool, most: int, allowed: int, what: str, offset: int
) -> None:
    """Raises before parsing where the JSON holds more than `most` values, or takes more than `allowed` bytes of memory.

    A comma or bracket stands before each value. By its time a key counts as three more, a list as one and an object
    as five more.
    """
    found, keys = int(counts[[_COMMA, _LIST, _OBJECT]].sum()), int(counts[_COLON])
    count = found + 3 * keys + int(counts[_LIST]) + 5 * int(counts[_OBJECT])
    if count > most:
        raise CheckpointError(
            f"{what} holds about {count:,} values", expected=f"at most {most:,}", where=f"byte {offset:,}"
        )
    text, escaped = _text_bytes(counts, wide), counts[_BACKSLASH] and b"\\u" in raw
    need = text + (4 if escaped else 1) * _text_bytes(counts, False) + _TEXT_BYTES * found + _OBJECT_BYTES * keys
    if need > allowed:
        need = max(len(raw) + text, (1 + wide) * text, text + _parsed_bytes(raw, counts))
    if need > allowed:
        raise CheckpointError(
            f"{what} holds about {count:,} values, which take {need:,} bytes of memory",
            expected=f"at most {allowed:,} for a file of this size",
            where=f"byte {offset:,}",
        )


def _text_bytes(counts: np.ndarray, escaped: bool) -> int:
    """Memory for the JSON as Python text, as it is or with `\\u` for what is not ASCII."""
    plain, short, long = (int(part.sum()) for part in (counts[:0x80], counts[0xC0:0xF0], counts[0xF0:]))
    if escaped:
        return plain + 6 * short + 12 * long
    return (plain + short + long) * (4 if long else 2 if counts[0xC4:].any() else 1)


def _parsed_bytes(raw: bytes | bytearray, counts: np.ndarray) -> int:
    """Memory for the values of the JSON: texts by their widest character, the rest by the number of its kind."""
    texts, text_bytes = _texts(raw)
    lists, objects, keys = (int(counts[sign]) for sign in (_LIST, _OBJECT, _COLON))
    others = max(0, int(counts[_COMMA]) + lists + objects + keys - texts)
    digits = int(counts[ord("0") : ord("9") + 1].sum()) * 3 // 5
    containers = _TEXT_BYTES * lists + _OBJECT_BYTES * objects + _KEY_BYTES * keys
    return text_bytes + containers + _NUMBER_BYTES * others + digits


def _texts(raw: bytes | bytearray) -> tuple[int, int]:
    """How many texts a JSON holds, and the memory that they take."""
    letters = np.frombuffer(raw, np.uint8)
    count = total = 0
    inside, length, top = False, 0, 0
    for part, escapes, first_escaped in with_escapes(letters):
        tops = part.copy()
        tops[escapes[part[np.minimum(escapes + 1, len(part) - 1)] == ord("u")]] = 0xFF
        if first_escaped:
            tops[0] = 0xFF
        quotes = np.flatnonzero(bounds_of_texts(part, escapes, first_escaped))
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
    widths = np.select([widest < 0xC4, widest < 0xF0], [1, 2], 4)
    bases = np.where(widest < 0x80, 49, 76)
    sizes: np.ndarray = (bases + widths * lengths + 15) // 16 * 16 + 9
    return sizes


def with_escapes(letters: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Parts of a JSON, where in each its escapes start, and whether the part before ends in one."""
    escaped = False
    for start in range(0, len(letters), _CACHED_BYTES):
        part = letters[start : start + _CACHED_BYTES]
        escapes = _escape_places(part, escaped)
        yield part, escapes, escaped
        escaped = len(escapes) > 0 and bool(escapes[-1] == len(part) - 1)


def bounds_of_texts(part: np.ndarray, escapes: np.ndarray, first_escaped: bool) -> np.ndarray:
    """Which bytes of a part are quotes that open or close a text."""
    found: np.ndarray = part == _QUOTE
    found[escapes[escapes + 1 < len(part)] + 1] = False
    found[0] &= not first_escaped
    return found


def _escape_places(letters: np.ndarray, first_escaped: bool) -> np.ndarray:
    """Where a backslash starts an escape: every second one of a run, the first byte aside where it is escaped."""
    places = np.flatnonzero(letters == _BACKSLASH)
    if first_escaped and len(places) and places[0] == 0:
        places = places[1:]
    runs = np.maximum.accumulate(np.where(np.diff(places, prepend=-2) != 1, places, 0))
    found: np.ndarray = places[(places - runs) & 1 == 0]
    return found


def _escapes_surrogates(letters: np.ndarray) -> bool:
    """Whether it holds `\\ud` or `\\uD`; a vocabulary is full of `\\u`, which makes the search for text slow."""
    for start in range(0, len(letters), _CACHED_BYTES):  # masks that stay in a core's cache
        part = letters[start : start + _CACHED_BYTES + 2]
        found = part[:-2] == _BACKSLASH
        found &= part[1:-1] == ord("u")
        found &= (part[2:] | 0x20) == ord("d")
        if found.any():
            return True
    return False


def _has_half_a_pair(raw: bytes | bytearray) -> bool:
    """Whether an escaped surrogate (`\\ud800` to `\\udfff`) is not one of a pair."""
    letters = np.frombuffer(raw, np.uint8)
    if b"\\u" not in raw or not _escapes_surrogates(letters):
        return False

    def after(places: np.ndarray, distance: int) -> Any:
        return letters[np.minimum(places + distance, len(letters) - 1)]

    def surrogates(places: np.ndarray) -> Any:
        return places[(after(places, 1) == ord("u")) & (after(places, 2) | 0x20 == ord("d"))]

    highs = lows = start = 0
    for part, escapes, _ in with_escapes(letters):
        places, start = surrogates(escapes + start), start + len(part)
        nibbles = after(places, 3)
        low = nibbles | 0x20 >= ord("c")
        high = places[~low & (nibbles >= ord("8"))]
        follows = high + 6
        paired = surrogates(follows[after(follows, 0) == _BACKSLASH])
        if len(paired) < len(high) or (after(paired, 3) | 0x20 < ord("c")).any():
            return True
        highs, lows = highs + len(high), lows + int(low.sum())
    return highs != lows


def _is_wide(raw: bytes | bytearray) -> bool:
    """Whether its text would take much more memory than its bytes: most is ASCII, some is far from it."""
    top = int(np.frombuffer(raw, np.uint8).max(initial=0))
    width = 4 if top >= 0xF0 else 2 if top >= 0xC4 else 1
    return (width - 1) * len(raw) > _WIDE_BYTES


def _chunks(raw: bytes | bytearray) -> Iterator[str]:
    """The text in parts; a UnicodeDecodeError tells the byte in the whole."""
    decode, view = codecs.getincrementaldecoder("utf-8")(), memoryview(raw)
    for start in range(0, len(raw), _CHUNK_BYTES):
        kept = len(decode.getstate()[0])
        try:
            yield decode.decode(view[start : start + _CHUNK_BYTES], start + _CHUNK_BYTES >= len(raw))
        except UnicodeDecodeError as error:
            error.start += start - kept
            raise


def _narrowed(raw: bytes | bytearray) -> bytearray:
    narrow = bytearray()
    for chunk in _chunks(raw):
        narrow += _escaped(chunk).encode("ascii")
    return narrow


def _escaped(text: str) -> str:
    """The same JSON with `\\u` for what is not ASCII."""
    return text if text.isascii() else _BEYOND_ASCII.sub(lambda match: json.dumps(match.group())[1:-1], text)


def _byte_of(raw: bytes | bytearray, position: int) -> int:
    """The byte that stands at `position` of the escaped text."""
    place = 0
    for chunk in _chunks(raw):
        size = len(_escaped(chunk))
        if position < size:
            before = bisect_right(range(len(chunk)), position, key=lambda stop: len(_escaped(chunk[:stop]))) - 1
            return place + len(chunk[:before].encode())
        position, place = position - size, place + len(chunk.encode())
    return place
