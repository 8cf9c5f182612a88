"""Several sources of rows, each with a weight: how often its rows are used (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from aprnb.errors import DataError
from aprnb.formats.json_files import MARK

Part = tuple[Any, float]
MOST_WEIGHT = 100
_WEIGHTED = re.compile(r"(.+)=(\d+(?:\.\d+)?|\.\d+)")


def parts_of(source: Any) -> list[Part]:
    """The sources that `source` names, with their weights; a source of another kind is the only one.

    Several are a list of paths, or a table of paths and weights; as text, a path may end with `=WEIGHT`, unless a file
    has that name. Raises DataError for a weight that is no number above 0.
    """
    if isinstance(source, Mapping) and source and all(isinstance(key, (str, PathLike)) for key in source):
        if not all(isinstance(weight, Real) and not isinstance(weight, bool) for weight in source.values()):
            return [(source, 1.0)]
        return [(path, _checked(float(weight), path)) for path, weight in source.items()]
    if isinstance(source, (list, tuple)) and source and all(isinstance(each, (str, PathLike)) for each in source):
        return [part for each in source for part in parts_of(each)]
    if isinstance(source, str) and not is_rows(source) and (found := _WEIGHTED.fullmatch(source)):
        path, weight = found.groups()
        if not Path(source).exists():
            return [(path, _checked(float(weight), path))]
    return [(source, 1.0)]


def are_paths(source: Any) -> bool:
    """Whether `source` names files only."""
    return all(
        isinstance(each, PathLike) or (isinstance(each, str) and not is_rows(each)) for each, _ in parts_of(source)
    )


def described(source: Any) -> Any:
    """Several sources as a document has them; None for a source of another kind."""
    parts = parts_of(source)
    if (len(parts) == 1 and parts[0][0] is source) or not are_paths(source):
        return None
    return {fspath(path): weight for path, weight in parts}


def is_rows(text: str) -> bool:
    """Whether `text` is training rows as JSON Lines, and not a path or a recipe."""
    return text.lstrip().removeprefix(MARK).lstrip().startswith("{")


def _checked(weight: float, path: Any) -> float:
    if not 0 < weight <= MOST_WEIGHT:
        raise DataError(f"the weight of {path} is {weight:g}", expected=f"a number above 0, at most {MOST_WEIGHT}")
    return weight
