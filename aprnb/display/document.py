"""What a report says, as plain data: the one source of its text and its HTML, so that the two cannot disagree."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

Align = Literal["left", "right"]
Cell = str | int | float | None
Status = Literal["ok", "warning", "failed"]

STATUS_WORDS: dict[Status, str] = {"ok": "✓ ok", "warning": "⚠ warning", "failed": "✗ failed"}
MESSAGE_SIGNS = {"warning": "⚠", "error": "✗", "assumption": "≈"}

# Cc: control, Cf: direction marks and zero-width signs, Cs: lone surrogates, Zl/Zp: line and paragraph separators.
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_LONGEST = 4_096


@dataclass(frozen=True, slots=True)
class Column:
    """A table column; numbers go to the right."""

    name: str
    align: Align = "left"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence or more; line breaks stay."""

    text: str


@dataclass(frozen=True, slots=True)
class Fields:
    """Rows of name, value and note (where the value comes from)."""

    rows: tuple[tuple[str, Cell, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; `hidden` counts rows that were left out before."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG with the words that stand in its place."""

    figure_png: bytes
    alt: str


@dataclass(frozen=True, slots=True)
class Messages:
    """Warnings, errors or assumptions, each a sentence."""

    kind: Literal["warning", "error", "assumption"]
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are folded away until asked for."""

    title: str
    blocks: tuple[Block, ...]


Block = Paragraph | Fields | Table | Picture | Details | Messages


@dataclass(frozen=True, slots=True)
class Document:
    """A titled sequence of blocks, with a verdict where there is one."""

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


def visible(text: str) -> str:
    """`text` on one line, its control characters, direction marks and lone surrogates as `⟨U+202E⟩`.

    Names and metadata come from files: an escape sequence must not reach a terminal, a direction mark must not
    turn a name round. Of longer text than anybody reads only the beginning is shown, and how much is missing.
    """
    if len(text) > _LONGEST:
        return f"{visible(text[:_LONGEST])}… ({len(text) - _LONGEST:,} more characters)"
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(sign):04X}⟩" if unicodedata.category(sign) in _INVISIBLE else sign for sign in text)


def visible_lines(text: str) -> list[str]:
    """The lines of `text`, each made visible."""
    return [visible(line) for line in text.split("\n")]


def rows_shown(table: Table, row_limit: int | None) -> tuple[tuple[tuple[Cell, ...], ...], int]:
    """The rows to show and the number of those that are not: all up to `row_limit`, else the first half of it."""
    if row_limit is None or len(table.rows) <= row_limit:
        return table.rows, table.hidden
    shown = max(1, row_limit // 2)
    return table.rows[:shown], table.hidden + len(table.rows) - shown
