"""Training rows: conversations read and checked, each error with its row, and the split for evaluation (no torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.errors import DataError, closest
from aprnb.printable import and_more, first_names
from aprnb.tuning.data.row_sources import ROW_FORMS, BadRow, expanded, numbered_rows

ROLES = ("system", "user", "assistant")
_INSTRUCTION_KEYS = ("instruction", "response", "system", "input")


@dataclass(frozen=True)
class Message:
    """One turn: `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One conversation; `origin` is its place in the source, for errors."""

    messages: tuple[Message, ...]
    origin: str

    def to_json(self) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True)
class RowSet:
    """Rows in their order; `sha256` is that of the file's bytes, elsewhere that of `lines()`."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    sha256: str
    path: Path | None = None

    def lines(self) -> Iterator[bytes]:
        """The conversations as JSON Lines."""
        return (_canonical([row]) for row in self.rows)


def read_rows(source: Any, origin_name: str | None = None) -> RowSet:
    """The conversations in `source`: a JSON Lines file, JSON Lines text (begins with `{`), a list, a DataFrame.

    A row is `instruction` and `response` with optional `system` and `input`, or `messages`. `input` follows the
    instruction after a blank line, in the same user turn. Other keys are ignored and listed in the warnings.

    Raises FileMissing, and DataError with the first row that cannot be used, the reason, and how many more there are.
    """
    name, numbered, raw = numbered_rows(source, origin_name)
    rows: list[Row] = []
    ignored: dict[str, None] = {}
    first_bad, bad = "", 0
    for origin, value in numbered:
        try:
            if isinstance(value, BadRow):
                raise value
            rows.append(Row(_conversation(value, ignored), origin))
        except BadRow as reason:
            first_bad, bad = first_bad or f"{origin}: {reason}", bad + 1
    if bad:
        more = f"; {and_more(bad - 1)} of {bad + len(rows):,} rows cannot be used" if bad > 1 else ""
        raise DataError(first_bad + more, action=f"a row is {ROW_FORMS}")
    if not rows:
        raise DataError(f"{name} contains no rows", action=f"a row is {ROW_FORMS}")
    digest = hashlib.sha256(raw or _canonical(rows)).hexdigest()
    return RowSet(tuple(rows), _ignored_warning(name, ignored), digest, expanded(source) if raw else None)


def split_rows(rows: Sequence[Row], val_split: float, seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows to train on and rows held out, both in their order; equal conversations land on one side.

    About `val_split` of the rows are held out: at least one where there are two different conversations, never all. A
    conversation's side follows from its content and the seed, so rows that are added later change few others.
    """
    if val_split <= 0:
        return tuple(rows), ()
    groups: dict[tuple[Message, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.messages, []).append(index)
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
    return hashlib.sha256(str(seed).encode() + _canonical([row])).digest()


def _canonical(rows: Iterable[Row]) -> bytes:
    lines = (json.dumps({"messages": row.to_json()}, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _conversation(value: Any, ignored: dict[str, None]) -> tuple[Message, ...]:
    if not isinstance(value, Mapping):
        wanted = "one object per line" if isinstance(value, list) else "an object"
        raise BadRow(f"a JSON {_json_type(value)}, not {wanted}")
    if "messages" in value:
        both = [key for key in _INSTRUCTION_KEYS if value.get(key) is not None]
        if both:
            raise BadRow(f"has both messages and {both[0]}: use one of the two forms")
        _note_keys(value, ("messages",), "", ignored)
        return _from_messages(value["messages"], ignored)
    _note_keys(value, _INSTRUCTION_KEYS, "", ignored)
    return _from_instruction(value)


def _from_instruction(value: Mapping[str, Any]) -> tuple[Message, ...]:
    for key in ("instruction", "response"):
        if value.get(key) is None:
            near = next((closest(str(each), [key]) and str(each) for each in value if closest(str(each), [key])), None)
            raise BadRow(f"no {key}" + (f", but a key {near!r}" if near else ""))
    instruction, response = _text(value["instruction"], "instruction"), _text(value["response"], "response")
    if not instruction.strip() or not response.strip():
        raise BadRow("empty instruction" if not instruction.strip() else "empty response")
    extra = "" if value.get("input") is None else _text(value["input"], "input")
    system = "" if value.get("system") is None else _text(value["system"], "system")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    opening = (Message("system", system),) if system.strip() else ()
    return (*opening, Message("user", question), Message("assistant", response))


def _from_messages(value: Any, ignored: dict[str, None]) -> tuple[Message, ...]:
    turns = value.tolist() if hasattr(value, "tolist") else value  # data frames contain arrays
    if not isinstance(turns, (list, tuple)) or not turns:
        raise BadRow("messages is empty" if turns in ([], ()) else f"messages is {_json_type(turns)}, not a list")
    return tuple(_message(turn, at, ignored) for at, turn in enumerate(turns, 1))


def _message(turn: Any, at: int, ignored: dict[str, None]) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(f"message {at} is {_json_type(turn)}, not an object")
    role = turn.get("role")
    if role not in ROLES:
        near = closest(role, ROLES) if isinstance(role, str) else ""
        raise BadRow(f"message {at} has role {str(role)[:40]!r}{near}, not one of {', '.join(ROLES)}")
    if turn.get("tool_calls"):
        raise BadRow(f"message {at} calls tools, which is not supported")
    content = _text(turn.get("content"), f"content of message {at}")
    if role == "assistant" and not content.strip():
        raise BadRow(f"message {at} is an empty answer")
    _note_keys(turn, ("role", "content"), "messages.", ignored)
    return Message(role, content)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{what} is {_json_type(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"{what} contains half a surrogate pair, which is not a character") from None
    return value


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _note_keys(value: Mapping[Any, Any], known: Sequence[str], prefix: str, ignored: dict[str, None]) -> None:
    for key, content in value.items():
        if key not in known and content is not None:
            ignored[f"{prefix}{key}"] = None


def _ignored_warning(name: str, ignored: Mapping[str, None]) -> tuple[str, ...]:
    if not ignored:
        return ()
    return (f"{name}: unused keys: {first_names([repr(key[:60]) for key in ignored], 8)}",)
