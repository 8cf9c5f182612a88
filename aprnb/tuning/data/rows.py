"""Training rows read and checked, each error with its row, and the split for evaluation (no torch)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aprnb.errors import DataError
from aprnb.printable import and_more, first_names
from aprnb.tuning.data.forms import ROW_FORMS, read_form
from aprnb.tuning.data.row import AnyRow
from aprnb.tuning.data.row_values import BadRow
from aprnb.tuning.data.sources.columns import check_columns, renamed
from aprnb.tuning.data.sources.row_sources import expanded, numbered_rows
from aprnb.tuning.data.sources.several import are_paths, described, parts_of


@dataclass(frozen=True)
class RowSet:
    """Rows in their order; `sha256` is that of a JSON Lines file's bytes, elsewhere that of `lines()`."""

    rows: tuple[AnyRow, ...]
    warnings: tuple[str, ...]
    sha256: str
    path: Path | None = None
    description: str = ""
    """The forms of the rows and the name of their source."""

    def lines(self) -> Iterator[bytes]:
        """The rows as JSON Lines, with what is not trained."""
        return (row.line for row in self.rows)


def read_rows(source: Any, origin_name: str | None = None, *, columns: Mapping[str, str] | None = None) -> RowSet:
    """The rows in `source`: a path, JSON Lines text (begins with `{`), a list, a DataFrame, or several paths.

    A row is of one of the forms in `forms`. Keys without a use are ignored and listed in the warnings; those that
    change what a row means are errors. `columns` says which of a row's keys are meant: {"response": "answer"}; with
    several sources, in the rows that have one of them.

    Raises FileMissing, and DataError with the first row that cannot be used, the reason, and how many more there are.
    """
    check_columns(columns or {})
    sources = parts_of(source)
    rename = partial(renamed, columns=columns, some=len(sources) > 1) if columns else None
    parts = [(_read(part, origin_name, rename), weight) for part, weight in sources]
    if [weight for _, weight in parts] == [1.0]:
        return parts[0][0]
    rows = tuple(row for found, weight in parts for row in _weighted(found.rows, weight))
    if not rows:
        raise DataError("no row is left after the weights", action="give larger weights")
    named = [found.description + (f" × {weight:g}" if weight != 1 else "") for found, weight in parts]
    warnings = tuple(warning for found, _ in parts for warning in found.warnings)
    return RowSet(rows, warnings, _digest(rows), description="; ".join(named))


def _read(source: Any, origin_name: str | None, rename: Callable[[Any], Any] | None) -> RowSet:
    name, numbered, raw = numbered_rows(source, origin_name)
    rows: list[AnyRow] = []
    ignored: dict[str, None] = {}
    forms: dict[str, None] = {}
    first, bad = ("", ""), 0
    for origin, value in numbered:
        try:
            if isinstance(value, BadRow):
                raise value
            form, row = read_form(rename(value) if rename else value, origin, ignored)
            rows.append(row)
            forms[form] = None
        except BadRow as reason:
            first, bad = first if bad else (f"{origin}: {reason}", reason.action), bad + 1
    if bad:
        more = f"; {and_more(bad - 1)} of {bad + len(rows):,} rows cannot be used" if bad > 1 else ""
        raise DataError(first[0] + more, action=first[1] or f"a row is {ROW_FORMS}")
    if not rows:
        raise DataError(f"{name} contains no rows", action=f"a row is {ROW_FORMS}")
    if raw is None or rename:
        digest, path = _digest(rows), None
    else:  # the file may be read again as it is
        digest, path = hashlib.sha256(raw).hexdigest(), expanded(source)
    return RowSet(tuple(rows), _ignored_warning(name, ignored), digest, path, f"{' and '.join(forms)}, from {name}")


def _digest(rows: Sequence[AnyRow]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.line)
    return digest.hexdigest()


def _weighted(rows: Sequence[AnyRow], weight: float) -> Iterator[AnyRow]:
    """The rows `weight` times; of a broken number the same part of them each time."""
    whole, part = int(weight), weight - int(weight)
    for _ in range(whole):
        yield from rows
    if part:
        chosen = set(sorted(range(len(rows)), key=lambda at: (_rank(rows[at].key, 0), at))[: round(part * len(rows))])
        yield from (row for at, row in enumerate(rows) if at in chosen)


def portable_rows(sources: Mapping[str, Any], columns: Any) -> dict[str, Any]:
    """The sources, by their option, for another process: paths as they are; if one is an object, all as text.

    The text has the names of the forms, so that `columns` are those of the result.
    """
    if all(map(are_paths, sources.values())):
        return {name: described(source) or source for name, source in sources.items()}
    read = {name: read_rows(source, columns=columns) for name, source in sources.items()}
    texts = {name: b"".join(rows.lines()).decode("utf-8", "surrogatepass") for name, rows in read.items()}
    return {**texts, "columns": None}


def split_rows(rows: Sequence[AnyRow], val_split: float, seed: int) -> tuple[tuple[AnyRow, ...], tuple[AnyRow, ...]]:
    """Rows to train on and rows held out, both in their order; equal rows land on one side.

    About `val_split` of the rows are held out: at least one where there are two different ones, never all. A
    row's side follows from its content and the seed, so rows that are added later change few others.
    """
    if val_split <= 0:
        return tuple(rows), ()
    groups: dict[bytes, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.key, []).append(index)
    shuffled = [groups[key] for key in sorted(groups, key=lambda key: _rank(key, seed))]
    wanted = max(1, round(val_split * len(rows)))
    held: set[int] = set()
    for group in shuffled[:-1]:
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held and len(shuffled) > 1:
        smallest: list[int] = min(shuffled, key=len)
        held.update(smallest)
    return (
        tuple(row for index, row in enumerate(rows) if index not in held),
        tuple(row for index, row in enumerate(rows) if index in held),
    )


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.sha256(str(seed).encode() + key).digest()


def _ignored_warning(name: str, ignored: Mapping[str, None]) -> tuple[str, ...]:
    if not ignored:
        return ()
    return (f"{name}: unused keys: {first_names([repr(key[:60]) for key in ignored], 8)}",)
