"""JSON of files that somebody may have written to hurt: in bounded memory, every refusal with its byte."""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from aprnb.errors import CheckpointError

MAX_VALUES = 3 << 18
"""Values that any file may hold; a larger file may hold one more for every 64 of its bytes."""
_WIDE_BYTES = 24 << 20
"""A character of Python text takes as much as its widest: one emoji makes four bytes of each letter of a large JSON."""
_CHUNK_BYTES = 1 << 20
_CACHED_BYTES = 1 << 17
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")

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
    try:
        raw = read()
        bound_values(raw, what, offset, size_bytes, values)
        surrogates, wide = _escapes_surrogates(raw), _is_wide(raw)
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
    if surrogates and not _encodable(parsed):
        raise _unreadable(what, "not Unicode: it holds half of a surrogate pair", offset)
    if not isinstance(parsed, dict):
        kind = "JSON's null" if parsed is None else f"a JSON {type(parsed).__name__}"
        raise _unreadable(what, kind, offset, expected="an object")
    return parsed


class _BeyondJson(ValueError):
    """A number that Python's reader takes and JSON does not have."""


def _refuse(constant: str) -> Any:
    raise _BeyondJson(f"it has no {constant}")


def bound_values(raw: bytes | bytearray, what: str, offset: int, size_bytes: int, values: int) -> None:
    """Raises before parsing where the JSON takes far more memory than `values` and the file's `size_bytes` justify.

    A value takes two bytes of JSON and up to 88 in memory; a comma or bracket stands before each. A key costs as much
    as three values: its text, and its place in an object.
    """
    most = values + size_bytes // 64
    if len(raw) <= most // 2:
        return
    count = sum(map(raw.count, (b",", b"[", b"{"))) + 3 * raw.count(b":")
    if count > most:
        raise CheckpointError(
            f"{what} holds about {count:,} values",
            expected=f"at most {most:,} in a file of {size_bytes:,} bytes",
            where=f"byte {offset:,}",
        )


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


def _finite(text: str) -> float:
    """The number, unless it is one that only Python's reader takes for infinity (1e999)."""
    value = float(text)
    if math.isinf(value):
        raise _BeyondJson(f"{text[:20]} is beyond every floating-point number")
    return value


def _unreadable(what: str, reason: str, at: int, expected: str | None = None) -> CheckpointError:
    return CheckpointError(f"{what} is {reason}", expected=expected, where=f"byte {at:,}")


def _escapes_surrogates(raw: bytes | bytearray) -> bool:
    """Whether it holds `\\ud` or `\\uD`; a vocabulary is full of `\\u`, which makes the search for text slow."""
    if b"\\u" not in raw:
        return False
    letters = np.frombuffer(raw, np.uint8)
    for start in range(0, len(letters), _CACHED_BYTES):  # masks that stay in a core's cache
        part = letters[start : start + _CACHED_BYTES + 2]
        found = part[:-2] == ord("\\")
        found &= part[1:-1] == ord("u")
        found &= (part[2:] | 0x20) == ord("d")
        if found.any():
            return True
    return False


def _encodable(parsed: Any) -> bool:
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
