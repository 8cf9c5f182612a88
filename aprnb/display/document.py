"""The content of a report as plain data, from which both its text and its HTML are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aprnb.printable import MAX_NAME, and_more, visible

Align = Literal["left", "right"]
Cell = str | int | float | None
Status = Literal["ok", "warning", "failed"]

STATUS_WORDS: dict[Status, str] = {"ok": "✓ ok", "warning": "⚠ warning", "failed": "✗ failed"}
_MOST_MESSAGES = 50
MESSAGE_SIGNS = {"warning": "⚠", "error": "✗", "assumption": "≈"}


@dataclass(frozen=True, slots=True)
class Column:
    """A table column; numbers are aligned to the right."""

    name: str
    align: Align = "left"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One or more sentences; line breaks are kept."""

    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Text of any length, such as an answer or code; spaces and line breaks are kept."""

    text: str


Kind = Literal["context", "trained", "end"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The text of tokens, each with whether it is context, trained, or a trained end of an answer."""

    pieces: tuple[tuple[str, Kind], ...]


@dataclass(frozen=True, slots=True)
class Fields:
    """Rows of name, value and note (the source of the value)."""

    rows: tuple[tuple[str, Cell, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; `hidden` is the number of rows that were already left out."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG and its alternative text."""

    figure_png: bytes
    alt: str


@dataclass(frozen=True, slots=True)
class Messages:
    """Warnings, errors or assumptions, each a sentence."""

    kind: Literal["warning", "error", "assumption"]
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are collapsed at first."""

    title: str
    blocks: tuple[Block, ...]


Block = Paragraph | Passage | Tokens | Fields | Table | Picture | Details | Messages


@dataclass(frozen=True, slots=True)
class Document:
    """A titled sequence of blocks, with a status if there is one."""

    title: str
    status: Status | None
    blocks: tuple[Block, ...]


def cell_text(value: Cell) -> str:
    """`1756036` → `1,756,036`; `0.00012345` → `0.0001234`; None → `–`."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value


def table_cell(value: Cell) -> str:
    """`cell_text` on one line, cut at the length of a name."""
    return visible(cell_text(value), MAX_NAME)


def messages_shown(messages: Messages) -> tuple[str, ...]:
    """The first fifty messages and the number of the rest."""
    rest = and_more(len(messages.items) - _MOST_MESSAGES)
    return (*messages.items[:_MOST_MESSAGES], *([rest] if rest else []))


def rows_shown(table: Table, row_limit: int | None) -> tuple[tuple[tuple[Cell, ...], ...], int]:
    """The rows to show and the number of hidden ones: all rows up to `row_limit`, else the first half of the limit."""
    if row_limit is None or len(table.rows) <= row_limit:
        return table.rows, table.hidden
    shown = max(1, row_limit // 2)
    return table.rows[:shown], table.hidden + len(table.rows) - shown
