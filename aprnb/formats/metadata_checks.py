"""What metadata state twice, and in the wrong JSON type: one reading is a warning, two readings are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from json.decoder import scanstring  # type: ignore[attr-defined]  # missing in the stubs
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.contents import shown_name
from aprnb.formats.json_text import Read
from aprnb.formats.metadata import ALIASES, same
from aprnb.formats.metadata_text import ALWAYS_WRITTEN, KINDS

_SHOWN = 10
_SEARCHED_BYTES = 16 << 20
_BLANKS = re.compile(r"[ \t\n\r]*")


class _Places:
    """Where the keys of the outermost object stand, found only when somebody asks."""

    def __init__(self, read: Read, offset: int) -> None:
        self._read, self._offset = read, offset

    @cached_property
    def _keys(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        raw = self._read()
        if len(raw) > _SEARCHED_BYTES:
            return found
        try:
            for key, place in _outermost_keys(raw.decode("utf-8")):
                found.setdefault(key, []).append(self._offset + place)
        except RecursionError:
            # Nested to the very limit: the keys so far have their places, the others that of the metadata.
            pass
        return found

    def of(self, key: str, which: int = 0) -> int:
        """The byte where the key starts (its last one for −1); that of the metadata for a nested key, or huge ones."""
        places = self._keys.get(key)
        return places[which] if places else self._offset


def _outermost_keys(text: str) -> Iterator[tuple[str, int]]:
    """Each key of the object that `text` is known to hold, with the byte where it starts."""
    decode = json.JSONDecoder().raw_decode
    position, before, place = _skip(text, _skip(text, 0) + 1), 0, 0
    while text[position] == '"':
        place += len(text[before:position].encode())
        before = position
        key, position = scanstring(text, position + 1)
        yield key, place
        _, position = decode(text, _skip(text, _skip(text, position) + 1))
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    assert match
    return match.end()


def check_metadata(
    metadata: Mapping[str, Any],
    repeated: list[tuple[str, bool]],
    read: Read,
    path: object,
    offset: int,
) -> list[str]:
    """Warnings with their bytes; raises CheckpointError for a fact that is stated twice and differently."""
    places = _Places(read, offset)
    return [
        *_repeated_keys(repeated, places, path),
        *_spellings(metadata, places, path),
        *_types(metadata, places),
    ]


def _repeated_keys(repeated: list[tuple[str, bool]], places: _Places, path: object) -> list[str]:
    for key, disagree in repeated:
        if disagree:
            raise CheckpointError(
                f"metadata of {path} list {_short(key)} twice, with different values",
                expected="one value",
                where=f"bytes {places.of(key):,} and {places.of(key, -1):,}",
                action="which one is meant cannot be told: write the file again with one of them",
            )
    keys = list(dict.fromkeys(key for key, _ in repeated))
    warnings = [
        f"metadata list {_short(key)} more than once (byte {places.of(key, -1):,}); the value that is not null counts"
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
                    action="which one is meant cannot be told: write the file again with one of them",
                )
        if stated:
            warnings.append(
                f"metadata spell {canonical} in {len(present)} ways: {', '.join(present)} "
                f"(byte {places.of(present[1]):,}); the value that is not null counts"
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
        warnings.append(f"metadata {key} is {_short(value)} (byte {places.of(key):,}); the format asks for {kind.name}")
    return warnings


def _short(value: Any) -> str:
    text = shown_name(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= 40 else f"{text[:39]}…"
