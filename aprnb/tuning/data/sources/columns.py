"""Columns under other names: `--columns` (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import UsageProblem, closest
from aprnb.printable import first_names
from aprnb.tuning.data.row_values import BadRow, as_list

OF_MESSAGES = ("role", "content")
NAMES = (
    "instruction", "response", "system", "input", "output", "prompt", "completion", "messages", "conversations",
    "tools", "text", "input_ids", "labels", *OF_MESSAGES,
)  # fmt: skip
"""What a column may be read as; role and content are keys of each message."""
_OPTIONAL = ("system", "input", "tools", "labels")
"""Those that some rows may lack: of a table, empty cells are left out."""


def check_columns(columns: Mapping[str, str]) -> None:
    """Raises UsageProblem for a name that no row has."""
    unknown = next((name for name in columns if name not in NAMES), None)
    if unknown is not None:
        near = closest(unknown, NAMES)
        raise UsageProblem(f"--columns names {unknown[:60]!r}{near}", expected=f"some of {', '.join(NAMES)}")


def renamed(value: Any, columns: Mapping[str, str], *, some: bool) -> Any:
    """The row with its keys under the names of the forms; raises BadRow where one is missing.

    With `some`, a row that has none of the columns stays as it is: it is of another source.
    """
    outer = [column for name, column in columns.items() if name not in OF_MESSAGES]
    if not isinstance(value, Mapping) or (some and outer and not any(column in value for column in outer)):
        return value
    row = _moved(value, {name: column for name, column in columns.items() if name not in OF_MESSAGES})
    inner = {name: column for name, column in columns.items() if name in OF_MESSAGES}
    for key in ("messages", "conversations", "prompt", "completion") if inner else ():
        turns = as_list(row.get(key))
        if isinstance(turns, (list, tuple)):
            row[key] = [_moved(turn, inner) if isinstance(turn, Mapping) else turn for turn in turns]
    return row


def _moved(value: Mapping[Any, Any], columns: Mapping[str, str]) -> dict[Any, Any]:
    for name, column in columns.items():
        if column not in value and name not in _OPTIONAL:
            shown = first_names([repr(str(key)[:60]) for key in value], 8) or "none"
            raise BadRow(f"no column {column!r}, which --columns reads as {name}; its keys are {shown}")
    taken = set(columns.values())
    rest = {key: item for key, item in value.items() if key not in taken and key not in columns}
    return {**rest, **{name: value[column] for name, column in columns.items() if column in value}}
