"""Values of training rows, numbered, from files, text, lists and data frames (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from aprnb.errors import DataError, FileMissing
from aprnb.formats.json_files import with_line_feeds
from aprnb.tuning.data.sources.json_rows import json_lines
from aprnb.tuning.data.sources.row_files import file_rows
from aprnb.tuning.data.sources.several import is_rows


def numbered_rows(source: Any, name: str | None) -> tuple[str, Iterator[tuple[str, Any]], bytes | None]:
    """The name of the source, its rows with their origin, and the bytes where it is a plain JSON Lines file."""
    if isinstance(source, str) and is_rows(source):
        name = name or "cell"
        return name, json_lines(with_line_feeds(source), name), None
    if isinstance(source, (str, PathLike)):
        path = expanded(source)
        name = name or path.name or str(path)
        return name, *file_rows(path, name)
    name = name or "data"
    return name, ((f"{name} row {at}", value) for at, value in enumerate(_objects(source), 1)), None


def expanded(source: str | PathLike[str]) -> Path:
    """The path with `~` for a home folder; `./~x` is a file of that name."""
    if not str(source).startswith("~"):
        return Path(source)
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise FileMissing(f"{source}: the home folder does not exist", action="check --data") from None


def _objects(source: Any) -> Iterable[Any]:
    """Rows of a data frame (pandas or polars, recognised by what it can do) or of any other iterable."""
    if hasattr(source, "columns") and hasattr(source, "to_dicts"):
        return list(map(_without_missing, source.to_dicts()))
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return list(map(_without_missing, source.to_dict("records")))
    if isinstance(source, (Mapping, bytes)) or not isinstance(source, Iterable):
        splits = [repr(key) for key in source] if type(source).__name__.endswith("DatasetDict") else []  # of datasets
        raise DataError(
            f"data is of type {type(source).__name__}",
            expected="a path, a list of rows, a DataFrame, a Dataset, or JSON Lines text",
            action=f"give one of its splits: data[{splits[0]}]" if splits else None,
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
