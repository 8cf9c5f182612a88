"""Checks metadata for repeated keys, aliases and JSON types: an error where the values disagree, else a warning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from aprnb.errors import CheckpointError
from aprnb.formats.apr.metadata_text import ALWAYS_WRITTEN, KINDS
from aprnb.formats.json_bytes import bounds_of_texts, with_escapes
from aprnb.formats.json_text import Read
from aprnb.formats.metadata import ALIASES, same
from aprnb.printable import shown_name

_SHOWN = 10
_SHORT = 40
_SEARCHED_BYTES = 16 << 20
_QUOTE, _COMMA, _COLON, _OBJECT = b'",:{'
_DEPTHS = np.zeros(256, np.int8)
_DEPTHS[list(b"[{")], _DEPTHS[list(b"]}")] = 1, -1


class _Places:
    """The bytes where some keys of the outermost object are, found on demand."""

    def __init__(self, read: Read, offset: int, keys: Iterable[str]) -> None:
        self._read, self._offset, self._keys = read, offset, frozenset(keys)

    @cached_property
    def _found(self) -> dict[str, tuple[int, int]]:
        """The first and the last place of each key."""
        found: dict[str, tuple[int, int]] = {}
        raw = self._read()
        for key, place in _outermost_keys(raw) if len(raw) <= _SEARCHED_BYTES else ():
            if key in self._keys:
                found[key] = found.get(key, (place,))[0], place
        return found

    def of(self, key: str, which: int = 0) -> int:
        """The byte where the key starts (its last one for −1); that of the metadata for a nested key, or huge ones."""
        return self._offset + self._found.get(key, (0, 0))[which]


def _outermost_keys(raw: bytes | bytearray) -> Iterator[tuple[str, int]]:
    """Each key of the object in `raw`, with the byte where it starts; the values are not built."""
    for start, end in _outermost_key_bounds(raw):
        text = raw[start + 1 : end]
        yield json.loads(raw[start : end + 1]) if b"\\" in text else text.decode("utf-8"), start


def _outermost_key_bounds(raw: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """The quotes of each key: those at depth 1 that follow no colon there."""
    start = depth = inside = 0
    before, opened = _COMMA, -1
    for part, escapes, first_escaped in with_escapes(np.frombuffer(raw, np.uint8)):
        is_quote = bounds_of_texts(part, escapes, first_escaped)
        within = (np.cumsum(is_quote, dtype=np.uint8) + inside) & 1 == 1
        depths = np.cumsum(np.where(within, 0, _DEPTHS[part]), dtype=np.int32) + depth
        is_sign = np.where(within, is_quote, (part == _COMMA) | (part == _COLON) | (part == _OBJECT))
        signs = np.flatnonzero(is_sign & (depths == 1))
        kinds = np.concatenate(([before], part[signs]))
        keys = signs[(kinds[1:] == _QUOTE) & (kinds[:-1] != _COLON)]
        quotes = np.flatnonzero(is_quote)
        if opened >= 0 and len(quotes):
            yield opened, start + int(quotes[0])
            opened = -1
        closing = np.searchsorted(quotes, keys, side="right")
        closed = closing < len(quotes)
        yield from zip((keys[closed] + start).tolist(), (quotes[closing[closed]] + start).tolist(), strict=True)
        if not closed.all():
            opened = start + int(keys[-1])
        start, depth, inside, before = start + len(part), int(depths[-1]), int(within[-1]), int(kinds[-1])


def check_metadata(
    metadata: Mapping[str, Any],
    repeated: list[tuple[str, bool]],
    read: Read,
    path: object,
    offset: int,
) -> list[str]:
    """Warnings with their bytes; raises CheckpointError for a key that is stated twice with different values."""
    keys = list(dict.fromkeys(key for key, _ in repeated))
    disagreeing = next((key for key, disagree in repeated if disagree), None)
    spellings = (spelling for canonical, aliases in ALIASES.items() for spelling in (canonical, *aliases))
    places = _Places(read, offset, {*KINDS, *spellings, *keys[: _SHOWN + 1], disagreeing or ""})
    return [
        *_repeated_keys(keys, disagreeing, places, path),
        *_spellings(metadata, places, path),
        *_types(metadata, places),
    ]


def _repeated_keys(keys: list[str], disagreeing: str | None, places: _Places, path: object) -> list[str]:
    if disagreeing is not None:
        raise CheckpointError(
            f"metadata of {path} list {_short(disagreeing)} twice, with different values",
            expected="one value",
            where=f"bytes {places.of(disagreeing):,} and {places.of(disagreeing, -1):,}",
            action="it is not clear which one is meant: write the file again with one of them",
        )
    warnings = [
        f"metadata list {_short(key)} more than once (byte {places.of(key, -1):,}); the value that is not null is used"
        for key in keys[:_SHOWN]
    ]
    if keys[_SHOWN:]:
        at = places.of(keys[_SHOWN], -1)
        warnings.append(f"metadata list {len(keys) - _SHOWN:,} more keys more than once (from byte {at:,})")
    return warnings


def _spellings(metadata: Mapping[str, Any], places: _Places, path: object) -> list[str]:
    warnings = []
    for canonical, aliases in ALIASES.items():
        present = [spelling for spelling in (canonical, *aliases) if spelling in metadata]
        if len(present) < 2:
            continue
        stated = [spelling for spelling in present if metadata[spelling] is not None]
        for other in stated[1:]:
            if not same(metadata[stated[0]], metadata[other]):
                said = " and ".join(f"{name} {_short(metadata[name])}" for name in (stated[0], other))
                raise CheckpointError(
                    f"metadata of {path} say {said}, two spellings of one fact",
                    expected="one value",
                    where=f"bytes {places.of(stated[0]):,} and {places.of(other):,}",
                    action="it is not clear which one is meant: write the file again with one of them",
                )
        if stated:
            warnings.append(
                f"metadata spell {canonical} in {len(present)} ways: {', '.join(present)} "
                f"(byte {places.of(present[1]):,}); the value that is not null is used"
            )
    return warnings


def _types(metadata: Mapping[str, Any], places: _Places) -> list[str]:
    warnings = []
    for key, kind in KINDS.items():
        if key not in metadata:
            continue
        value = metadata[key]
        if value is None:
            if ALWAYS_WRITTEN.get(key) is None:
                continue
        elif kind.accepts(value):
            continue
        warnings.append(f"metadata {key} is {_short(value)} (byte {places.of(key):,}); the format requires {kind.name}")
    return warnings


def _short(value: Any) -> str:
    """The beginning of a value; no more of a large one is turned into text."""
    parts = [value] if isinstance(value, str) else islice(json.JSONEncoder().iterencode(value), _SHORT)
    text = shown_name("".join(part[: _SHORT + 1] for part in parts))
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"
