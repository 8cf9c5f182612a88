"""JSON from untrusted files: its memory is bounded before it is parsed, and every error names the byte."""

from __future__ import annotations

import codecs
import json
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.json_bytes import has_half_a_pair
from aprnb.formats.json_memory import MAX_VALUES, bound_memory
from aprnb.printable import shown_name

_CHUNK_BYTES = 1 << 20
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"(?P<colon>(?=\s*:))?|[-+.\w]+', re.DOTALL)
"""Texts, of which a colon makes a key, and whatever else is one word: numbers, constants."""
_A_NUMBER = "write a number or null in its place"
_LARGEST = sys.float_info.max

Read = Callable[[], bytes | bytearray]
"""Reads the JSON's bytes again on each call, so they need not stay in memory with the text and its values."""

Pairs = Callable[[list[tuple[str, Any]]], dict[str, Any]]


def read_json(
    read: Read, what: str, offset: int, size_bytes: int, values: int = MAX_VALUES, pairs: Pairs = dict
) -> dict[str, Any]:
    """The JSON object that `read` gives; `what` says in errors what it is, and `offset` where it starts in its file.

    `pairs` makes each object. Raises CheckpointError where the bytes are not an object, or more values than `values`
    and the file's `size_bytes` justify.
    """
    wide = halved = False
    try:
        raw = read()
        wide = bound_memory(raw, values, size_bytes, what, offset)
        halved = has_half_a_pair(raw)
        if wide:
            raw = _narrowed(raw)
        text = raw.decode("utf-8")
        del raw
        parsed = json.loads(text, object_pairs_hook=pairs, parse_constant=_reject, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise _unreadable(what, "not UTF-8", offset + error.start) from None
    except json.JSONDecodeError as error:
        place = _byte_of(read(), error.pos) if wide else len(error.doc[: error.pos].encode())
        raise _unreadable(what, f"not JSON ({error.msg})", offset + place) from None
    except _BeyondJson as error:
        at, key = _place_of(read(), error.text)
        raise _unreadable(what, f"not JSON ({error}){key}", offset + at, action=_A_NUMBER) from None
    except RecursionError:
        raise _unreadable(what, "nested too deeply", offset) from None
    except ValueError:  # Python's limit on integers, whose message names a function of Python
        raise _unreadable(
            what, f"not usable: an integer in it has over {sys.get_int_max_str_digits():,} digits", offset
        ) from None
    if halved:
        raise _unreadable(what, "not Unicode: it contains half of a surrogate pair", offset)
    if not isinstance(parsed, dict):
        kind = "JSON's null" if parsed is None else f"a JSON {type(parsed).__name__}"
        raise _unreadable(what, kind, offset, expected="an object")
    return parsed


class _BeyondJson(ValueError):
    """A number that Python accepts and JSON does not, as `text` has it."""

    def __init__(self, text: str, found: str) -> None:
        self.text = text
        super().__init__(found)


def _place_of(raw: bytes | bytearray, number: str) -> tuple[int, str]:
    """The byte at which `number` is outside of texts, and the key whose value it is or is in, for a message."""
    key = b""
    for found in _TOKENS.finditer(raw):
        if found.group() == number.encode():
            name = f", the value of {shown_name(key[1:-1].decode('utf-8', 'replace'))}" if key else ""
            return found.start(), name
        key = found.group() if found["colon"] is not None else key
    return 0, ""


def _reject(constant: str) -> Any:
    raise _BeyondJson(constant, f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    """The number; raises for one that Python reads as infinity (1e999)."""
    value = float(text)
    if -_LARGEST <= value <= _LARGEST:
        return value
    raise _BeyondJson(text, f"{text[:20]} is too large for a floating-point number")


def _unreadable(
    what: str, reason: str, at: int, expected: str | None = None, action: str | None = None
) -> CheckpointError:
    return CheckpointError(f"{what} is {reason}", expected=expected, where=f"byte {at:,}", action=action)


def _chunks(raw: bytes | bytearray) -> Iterator[str]:
    """The text in parts; a UnicodeDecodeError has the position in the whole."""
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
    """The same JSON with everything but ASCII as `\\u` escapes."""
    return text if text.isascii() else _BEYOND_ASCII.sub(lambda match: json.dumps(match.group())[1:-1], text)


def _byte_of(raw: bytes | bytearray, position: int) -> int:
    """The byte offset of `position` in the escaped text."""
    place = 0
    for chunk in _chunks(raw):
        size = len(_escaped(chunk))
        if position < size:
            before = bisect_right(range(len(chunk)), position, key=lambda stop: len(_escaped(chunk[:stop]))) - 1
            return place + len(chunk[:before].encode())
        position, place = position - size, place + len(chunk.encode())
    return place
