"""A document as text, for terminals, `text/plain` and log files."""

from __future__ import annotations

import unicodedata

from aprnb.display.document import (
    MESSAGE_SIGNS,
    STATUS_WORDS,
    Align,
    Block,
    Details,
    Document,
    Fields,
    Kind,
    Messages,
    Paragraph,
    Passage,
    Picture,
    Table,
    Tokens,
    cell_text,
    messages_shown,
    rows_shown,
    table_cell,
)
from aprnb.printable import and_more, running_text, visible, visible_lines

_ROW_LIMIT = 40


def to_text(document: Document, row_limit: int | None = _ROW_LIMIT) -> str:
    """The whole document; a table longer than `row_limit` shows its first half and counts the rest."""
    status = f"  {STATUS_WORDS[document.status]}" if document.status else ""
    title = visible(document.title) + status
    lines = [title, "─" * _width(title)]
    for block in document.blocks:
        lines += [*_block_lines(block, row_limit), ""]
    return "\n".join(line.rstrip() for line in lines).rstrip()


def _block_lines(block: Block, row_limit: int | None) -> list[str]:
    match block:
        case Paragraph(text):
            return visible_lines(text)
        case Passage(text):
            return running_text(text).split("\n")
        case Tokens(pieces):
            return running_text(_marked(pieces)).split("\n")
        case Fields(rows):
            return _aligned([(name, cell_text(value), note) for name, value, note in rows], ("left", "left", "left"))
        case Table():
            return _table_lines(block, row_limit)
        case Picture(_, alt):
            return [f"[picture: {visible(alt)}]"]
        case Messages(kind):
            return [f"{MESSAGE_SIGNS[kind]} {kind}: {visible(item)}" for item in messages_shown(block)]
        case Details(title, blocks):
            inner = [line for part in blocks for line in _block_lines(part, row_limit)]
            return [visible(title), *(f"  {line}" for line in inner)]


def _marked(pieces: tuple[tuple[str, Kind], ...]) -> str:
    """Runs of trained tokens in ⟦⟧, with ■ behind an end."""
    text = "".join(piece if kind == "context" else f"⟦{piece}⟧{'■' * (kind == 'end')}" for piece, kind in pieces)
    return text.replace("⟧⟦", "")


def _table_lines(table: Table, row_limit: int | None) -> list[str]:
    rows, hidden = rows_shown(table, row_limit)
    names = tuple(column.name for column in table.columns)
    cells = [names, *(tuple(table_cell(value) for value in row) for row in rows)]
    lines = _aligned(cells, tuple(column.align for column in table.columns))
    rule = "─" * max(_width(line) for line in lines)
    more = [f"… {and_more(hidden)} rows"] if hidden else []
    return [visible(table.title), lines[0], rule, *lines[1:], *more]


def _aligned(rows: list[tuple[str, ...]], aligns: tuple[Align, ...]) -> list[str]:
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [max((_width(row[column]) for row in cells), default=0) for column in range(len(aligns))]
    return ["  ".join(map(_padded, row, widths, aligns)).rstrip() for row in cells]


def _padded(cell: str, width: int, align: Align) -> str:
    blanks = " " * (width - _width(cell))
    return cell + blanks if align == "left" else blanks + cell


def _width(text: str) -> int:
    """Columns in a terminal: East Asian wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)
