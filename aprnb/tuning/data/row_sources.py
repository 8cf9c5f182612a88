"""Values of training rows, numbered, from files, text, lists and data frames (no torch)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, DataError, FileMissing
from aprnb.formats.json_files import MARK, decoded, with_line_feeds
from aprnb.formats.source import read_bytes
from aprnb.tuning.data.forms import ROW_FORMS
from aprnb.tuning.data.messages import BadRow

MAX_DATA_BYTES = 4 << 30
"""Rows are held in memory, at several times the size of their file."""


def numbered_rows(source: Any, name: str | None) -> tuple[str, Iterator[tuple[str, Any]], bytes | None]:
    """The name of the source, its rows with their origin, and the bytes of a file."""
    if isinstance(source, str) and is_rows(source):
        name = name or "cell"
        return name, _lines(with_line_feeds(source), name), None
    if isinstance(source, (str, PathLike)):
        path = expanded(source)
        name = name or path.name
        text, raw = _file_text(path)
        return name, _lines(text, name), raw
    name = name or "data"
    return name, ((f"{name} row {at}", value) for at, value in enumerate(_objects(source), 1)), None


def is_rows(text: str) -> bool:
    """Whether `text` is training rows as JSON Lines, and not a path or a recipe."""
    return text.lstrip().removeprefix(MARK).lstrip().startswith("{")


def expanded(source: str | PathLike[str]) -> Path:
    """The path with `~` for a home folder; `./~x` is a file of that name."""
    if not str(source).startswith("~"):
        return Path(source)
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise FileMissing(f"{source}: the home folder does not exist", action="check --data") from None


def _file_text(path: Path) -> tuple[str, bytes]:
    try:
        raw = read_bytes(path, MAX_DATA_BYTES)
    except FileMissing as error:
        raise FileMissing(error.found, action="check --data") from None
    except CheckpointError as error:
        raise DataError(error.found, expected="a JSON Lines file") from None
    if not raw.strip():
        raise DataError(f"{path} is empty", expected="a JSON Lines file", action=f"a row is {ROW_FORMS}")
    try:
        return decoded(raw, path), raw
    except CheckpointError as error:
        raise DataError(error.found, expected=error.expected, where=error.where, action=error.action) from None


def _lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    # str.splitlines would also cut at U+2028 and the like, which JSON allows inside strings
    for number, line in enumerate(text.split("\n"), 1):
        if (row := line.removeprefix(MARK)).strip():  # files with a mark may have been joined
            yield f"{name} line {number}", _parsed(row)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_without_repeats)
    except BadRow as problem:
        return problem
    except json.JSONDecodeError as problem:
        return BadRow(f"not JSON ({problem.msg} at character {problem.colno})")
    except RecursionError:
        return BadRow("nested too deeply")
    except ValueError as problem:
        return BadRow(f"not JSON ({problem})")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # None, so false
        raise BadRow(f"the key {twice[:60]!r} appears twice in one object")
    return found


def _objects(source: Any) -> Iterable[Any]:
    """Rows of a data frame (pandas or polars, recognised by what it can do) or of any other iterable."""
    if hasattr(source, "columns") and hasattr(source, "to_dicts"):
        return list(map(_without_missing, source.to_dicts()))
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return list(map(_without_missing, source.to_dict("records")))
    if isinstance(source, (Mapping, bytes)) or not isinstance(source, Iterable):
        raise DataError(
            f"data is of type {type(source).__name__}",
            expected="a path, a list of rows, a DataFrame, or JSON Lines text",
        )
    return source


def _without_missing(record: Mapping[str, Any]) -> dict[str, Any]:
    """A data frame's record without its empty cells (None, NaN, NaT), the only values that differ from themselves."""

    def missing(value: Any) -> bool:
        return (
            value is None
            or type(value).__name__ in ("NAType", "NaTType")
            or (isinstance(value, float) and value != value)
        )

    return {str(key): value for key, value in record.items() if not missing(value)}
