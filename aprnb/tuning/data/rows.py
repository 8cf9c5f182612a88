"""Training rows out of files, lists, data frames and text; every refusal names the row (no torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, DataError, FileMissing, closest
from aprnb.formats.source import read_bytes

MAX_DATA_BYTES = 4 << 30
"""Rows are held in memory, at several times the size of their file."""
ROLES = ("system", "user", "assistant")
_INSTRUCTION_KEYS = ("instruction", "response", "system", "input")
_FORMS = '{"instruction", "response", ["system"], ["input"]} or {"messages": [{"role", "content"}, …]}'


@dataclass(frozen=True)
class Message:
    """One turn: `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One conversation; `origin` says where it stood, for errors."""

    messages: tuple[Message, ...]
    origin: str

    def to_json(self) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True)
class RowSet:
    """Rows in their order; `sha256` is that of the file's bytes, elsewhere that of the conversations as JSON Lines."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    sha256: str


class _BadRow(Exception):
    """Carries the reason from a row to the one place that names rows."""


def read_rows(source: Any, origin_name: str | None = None) -> RowSet:
    """The conversations in `source`: a JSON Lines file, JSON Lines text (begins with `{`), a list, a DataFrame.

    A row is `instruction` and `response` with optional `system` and `input`, or `messages`. `input` follows the
    instruction after a blank line, in the same user turn. Other keys are ignored and listed in the warnings.

    Raises FileMissing, and DataError with the first row that cannot be used, the reason, and how many more there are.
    """
    name, numbered, raw = _numbered_rows(source, origin_name)
    rows: list[Row] = []
    ignored: dict[str, None] = {}
    first_bad, bad = "", 0
    for origin, value in numbered:
        try:
            if isinstance(value, _BadRow):
                raise value
            rows.append(Row(_conversation(value, ignored), origin))
        except _BadRow as reason:
            first_bad, bad = first_bad or f"{origin}: {reason}", bad + 1
    if bad:
        more = f"; {bad - 1:,} more of {bad + len(rows):,} rows cannot be used" if bad > 1 else ""
        raise DataError(first_bad + more, action=f"a row is {_FORMS}")
    if not rows:
        raise DataError(f"{name} holds no rows", action=f"a row is {_FORMS}")
    return RowSet(tuple(rows), _ignored_warning(name, ignored), hashlib.sha256(raw or _canonical(rows)).hexdigest())


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


def _numbered_rows(source: Any, name: str | None) -> tuple[str, Iterator[tuple[str, Any]], bytes | None]:
    """What the source is called, its rows with their origin, and the bytes of a file."""
    if isinstance(source, str) and source.lstrip().startswith("{"):
        name = name or "cell"
        return name, _lines(source, name), None
    if isinstance(source, (str, PathLike)):
        path = _expanded(source)
        name = name or path.name
        text, raw = _file_text(path)
        return name, _lines(text, name), raw
    name = name or "data"
    return name, ((f"{name} row {at}", value) for at, value in enumerate(_objects(source), 1)), None


def _expanded(source: str | PathLike[str]) -> Path:
    """The path with `~` for a home folder; `./~x` is a file of that name."""
    if not str(source).startswith("~"):
        return Path(source)
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise FileMissing(f"{source}: there is no such home folder", action="check --data") from None


def _file_text(path: Path) -> tuple[str, bytes]:
    try:
        raw = read_bytes(path, MAX_DATA_BYTES)
    except FileMissing as error:
        raise FileMissing(error.found, action="check --data") from None
    except CheckpointError as error:
        raise DataError(error.found, expected="a JSON Lines file") from None
    if not raw.strip():
        raise DataError(f"{path} is empty", expected="a JSON Lines file", action=f"a row is {_FORMS}")
    try:
        return raw.decode("utf-8-sig"), raw
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise DataError(
            f"{path} is not UTF-8", where=f"line {line}, byte {problem.start:,}", action="save it as UTF-8"
        ) from None


def _lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    # str.splitlines would also cut at U+2028 and the like, which JSON allows inside strings
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{name} line {number}", _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_without_repeats)
    except _BadRow as problem:
        return problem
    except json.JSONDecodeError as problem:
        return _BadRow(f"not JSON ({problem.msg} at character {problem.colno})")
    except RecursionError:
        return _BadRow("nested too deeply")
    except ValueError as problem:
        return _BadRow(f"not JSON ({problem})")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _BadRow(f"the key {twice[:60]!r} stands twice in one object")
    return found


def _objects(source: Any) -> Iterable[Any]:
    """Rows of a data frame (pandas or polars, recognised by what it can do) or of any other iterable."""
    if hasattr(source, "columns") and hasattr(source, "to_dicts"):
        return list(map(_without_missing, source.to_dicts()))
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return list(map(_without_missing, source.to_dict("records")))
    if isinstance(source, (Mapping, bytes)) or not isinstance(source, Iterable):
        raise DataError(
            f"data is {type(source).__name__}", expected="a path, a list of rows, a DataFrame, or JSON Lines text"
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


def _conversation(value: Any, ignored: dict[str, None]) -> tuple[Message, ...]:
    if not isinstance(value, Mapping):
        wanted = "; one object per line is wanted, not one array" if isinstance(value, list) else ""
        raise _BadRow(f"a JSON {_json_type(value)}{wanted or ', not an object'}")
    if "messages" in value:
        both = [key for key in _INSTRUCTION_KEYS if value.get(key) is not None]
        if both:
            raise _BadRow(f"has messages and {both[0]}: one form or the other")
        _note_keys(value, ("messages",), "", ignored)
        return _from_messages(value["messages"], ignored)
    _note_keys(value, _INSTRUCTION_KEYS, "", ignored)
    return _from_instruction(value)


def _from_instruction(value: Mapping[str, Any]) -> tuple[Message, ...]:
    for key in ("instruction", "response"):
        if value.get(key) is None:
            near = next((closest(str(each), [key]) and str(each) for each in value if closest(str(each), [key])), None)
            raise _BadRow(f"no {key}" + (f" (is {near!r} meant?)" if near else ""))
    instruction, response = _text(value["instruction"], "instruction"), _text(value["response"], "response")
    if not instruction.strip() or not response.strip():
        raise _BadRow("empty instruction" if not instruction.strip() else "empty response")
    extra = "" if value.get("input") is None else _text(value["input"], "input")
    system = "" if value.get("system") is None else _text(value["system"], "system")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    opening = (Message("system", system),) if system.strip() else ()
    return (*opening, Message("user", question), Message("assistant", response))


def _from_messages(value: Any, ignored: dict[str, None]) -> tuple[Message, ...]:
    turns = value.tolist() if hasattr(value, "tolist") else value  # data frames hand out arrays
    if not isinstance(turns, (list, tuple)) or not turns:
        raise _BadRow("messages is empty" if turns in ([], ()) else f"messages is {_json_type(turns)}, not a list")
    return tuple(_message(turn, at, ignored) for at, turn in enumerate(turns, 1))


def _message(turn: Any, at: int, ignored: dict[str, None]) -> Message:
    if not isinstance(turn, Mapping):
        raise _BadRow(f"message {at} is {_json_type(turn)}, not an object")
    role = turn.get("role")
    if role not in ROLES:
        near = closest(role, ROLES) if isinstance(role, str) else ""
        raise _BadRow(f"message {at} has role {str(role)[:40]!r}{near}, not one of {', '.join(ROLES)}")
    if turn.get("tool_calls"):
        raise _BadRow(f"message {at} calls tools, which is not supported")
    content = _text(turn.get("content"), f"content of message {at}")
    if role == "assistant" and not content.strip():
        raise _BadRow(f"message {at} is an empty answer")
    _note_keys(turn, ("role", "content"), "messages.", ignored)
    return Message(role, content)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _BadRow(f"{what} is {_json_type(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _BadRow(f"{what} holds half a surrogate pair, which is no character") from None
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
    shown = ", ".join(repr(key[:60]) for key in list(ignored)[:8])
    more = f" and {len(ignored) - 8:,} more" if len(ignored) > 8 else ""
    return (f"{name}: keys that are not used: {shown}{more}",)
