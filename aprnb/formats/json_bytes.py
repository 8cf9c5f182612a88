"""JSON scanned as bytes with numpy, before it is parsed: where its texts and escapes are, which surrogates lack a pair.

Each scan works on parts of `_CACHED_BYTES`, so that the masks of a part stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_CACHED_BYTES = 1 << 17
QUOTE, BACKSLASH, LIST, OBJECT, COMMA, COLON = b'"\\[{,:'


def byte_counts(raw: bytes | bytearray) -> np.ndarray:
    """How often each of the 256 bytes occurs."""
    letters, found = np.frombuffer(raw, np.uint8), np.zeros(256, np.int64)
    for start in range(0, len(letters), _CACHED_BYTES):
        found += np.bincount(letters[start : start + _CACHED_BYTES], minlength=256)
    return found


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
    found: np.ndarray = part == QUOTE
    found[escapes[escapes + 1 < len(part)] + 1] = False
    found[0] &= not first_escaped
    return found


def _escape_places(letters: np.ndarray, first_escaped: bool) -> np.ndarray:
    """Where a backslash starts an escape: every second one of a run, the first byte aside where it is escaped."""
    places = np.flatnonzero(letters == BACKSLASH)
    if first_escaped and len(places) and places[0] == 0:
        places = places[1:]
    # In a run of backslashes the first escapes the second, the third the fourth: those at an even distance from the
    # run's start count. The start is a backslash without one before it, repeated for the others of its run.
    runs = np.maximum.accumulate(np.where(np.diff(places, prepend=-2) != 1, places, 0))
    found: np.ndarray = places[(places - runs) & 1 == 0]
    return found


def has_half_a_pair(raw: bytes | bytearray) -> bool:
    """Whether an escaped surrogate (`\\ud800` to `\\udfff`) is not one of a pair."""
    letters = np.frombuffer(raw, np.uint8)
    if b"\\u" not in raw or not _escapes_surrogates(letters):
        return False

    def after(places: np.ndarray, distance: int) -> Any:
        return letters[np.minimum(places + distance, len(letters) - 1)]

    def surrogates(places: np.ndarray) -> Any:
        return places[(after(places, 1) == ord("u")) & (after(places, 2) | 0x20 == ord("d"))]

    # A pair is `\udXXX\udYYY`, XXX from 800 and YYY from c00. Each first half must have a second one behind it; with
    # as many second halves as first ones in the whole file, none of them is unpaired.
    highs = lows = start = 0
    for part, escapes, _ in with_escapes(letters):
        places, start = surrogates(escapes + start), start + len(part)
        nibbles = after(places, 3)
        low = nibbles | 0x20 >= ord("c")
        high = places[~low & (nibbles >= ord("8"))]
        follows = high + 6
        paired = surrogates(follows[after(follows, 0) == BACKSLASH])
        if len(paired) < len(high) or (after(paired, 3) | 0x20 < ord("c")).any():
            return True
        highs, lows = highs + len(high), lows + int(low.sum())
    return highs != lows


def _escapes_surrogates(letters: np.ndarray) -> bool:
    """Whether it holds `\\ud` or `\\uD`; by numpy, since searching for bytes is slow where `\\u` is on every line."""
    for start in range(0, len(letters), _CACHED_BYTES):
        part = letters[start : start + _CACHED_BYTES + 2]
        found = part[:-2] == BACKSLASH
        found &= part[1:-1] == ord("u")
        found &= (part[2:] | 0x20) == ord("d")
        if found.any():
            return True
    return False
