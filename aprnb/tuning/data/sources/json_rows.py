"""Rows in JSON: lines of objects, or one array of them; each with its place in the text (no torch)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aprnb.errors import DataError
from aprnb.formats.json_files import MARK
from aprnb.tuning.data.row_values import BadRow


def json_array(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """The rows of an array, which may take many lines."""
    found = _parsed(text)
    if isinstance(found, BadRow):
        raise DataError(f"{name} begins as a JSON array and is {found}", action="repair it, or give JSON Lines")
    return ((f"{name} row {at}", row) for at, row in enumerate(found, 1))


def json_lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """The rows of JSON Lines; empty lines are left out."""
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
        return BadRow(f"not JSON ({problem.msg} at {_place(problem)})")
    except RecursionError:
        return BadRow("nested too deeply")
    except ValueError as problem:
        return BadRow(f"not JSON ({problem})")


def _place(problem: json.JSONDecodeError) -> str:
    return f"line {problem.lineno}, character {problem.colno}" if problem.lineno > 1 else f"character {problem.colno}"


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # None, so false
        raise BadRow(f"the key {twice[:60]!r} appears twice in one object")
    return found
