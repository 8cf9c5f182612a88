"""Training rows: conversations read and checked, each error with its row, and the split for evaluation (no torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aprnb.errors import DataError
from aprnb.printable import and_more, first_names
from aprnb.tuning.data.forms import ROW_FORMS, read_form
from aprnb.tuning.data.messages import BadRow, Message
from aprnb.tuning.data.row_sources import expanded, numbered_rows


@dataclass(frozen=True)
class Row:
    """One conversation; `origin` is its place in the source, for errors."""

    messages: tuple[Message, ...]
    origin: str

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Roles and contents: conversations that differ only in what is trained have equal ones."""
        return tuple((message.role, message.content) for message in self.messages)

    def for_template(self, template: str) -> Row:
        """The row with its developer turns as system turns where the template does not know the role."""
        if "developer" in template or not any(message.role == "developer" for message in self.messages):
            return self
        turns = (replace(turn, role="system") if turn.role == "developer" else turn for turn in self.messages)
        return replace(self, messages=tuple(turns))

    def to_json(self) -> list[dict[str, str]]:
        """The conversation as a chat template takes it."""
        return [{"role": role, "content": content} for role, content in self.texts]


@dataclass(frozen=True)
class RowSet:
    """Rows in their order; `sha256` is that of a JSON Lines file's bytes, elsewhere that of `lines()`."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    sha256: str
    path: Path | None = None
    description: str = ""
    """The forms of the rows and the name of their source."""

    def lines(self) -> Iterator[bytes]:
        """The conversations as JSON Lines, with what is not trained."""
        return (_canonical([row]) for row in self.rows)


def read_rows(source: Any, origin_name: str | None = None) -> RowSet:
    """The conversations in `source`: a path, JSON Lines text (begins with `{`), a list, a DataFrame.

    A row is of one of the forms in `forms`. Keys without a use are ignored and listed in the warnings; those that
    change what a row means are errors.

    Raises FileMissing, and DataError with the first row that cannot be used, the reason, and how many more there are.
    """
    name, numbered, raw = numbered_rows(source, origin_name)
    rows: list[Row] = []
    ignored: dict[str, None] = {}
    forms: dict[str, None] = {}
    first, bad = ("", ""), 0
    for origin, value in numbered:
        try:
            if isinstance(value, BadRow):
                raise value
            form, messages = read_form(value, ignored)
            rows.append(Row(messages, origin))
            forms[form] = None
        except BadRow as reason:
            first, bad = first if bad else (f"{origin}: {reason}", reason.action), bad + 1
    if bad:
        more = f"; {and_more(bad - 1)} of {bad + len(rows):,} rows cannot be used" if bad > 1 else ""
        raise DataError(first[0] + more, action=first[1] or f"a row is {ROW_FORMS}")
    if not rows:
        raise DataError(f"{name} contains no rows", action=f"a row is {ROW_FORMS}")
    digest = hashlib.sha256(raw or _canonical(rows)).hexdigest()
    path = expanded(source) if raw else None
    return RowSet(tuple(rows), _ignored_warning(name, ignored), digest, path, f"{' and '.join(forms)}, from {name}")


def split_rows(rows: Sequence[Row], val_split: float, seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows to train on and rows held out, both in their order; equal conversations land on one side.

    About `val_split` of the rows are held out: at least one where there are two different conversations, never all. A
    conversation's side follows from its content and the seed, so rows that are added later change few others.
    """
    if val_split <= 0:
        return tuple(rows), ()
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.texts, []).append(index)
    shuffled = sorted(groups.values(), key=lambda group: _rank(rows[group[0]], seed))
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


def _rank(row: Row, seed: int) -> bytes:
    return hashlib.sha256(str(seed).encode() + _line(row.to_json())).digest()


def _canonical(rows: Iterable[Row]) -> bytes:
    return b"".join(_line([_message(message) for message in row.messages]) for row in rows)


def _message(message: Message) -> dict[str, Any]:
    weight = {} if message.trained or message.role != "assistant" else {"weight": 0}
    return {"role": message.role, "content": message.content, **weight}


def _line(messages: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps({"messages": messages}, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"


def _ignored_warning(name: str, ignored: Mapping[str, None]) -> tuple[str, ...]:
    if not ignored:
        return ()
    return (f"{name}: unused keys: {first_names([repr(key[:60]) for key in ignored], 8)}",)
