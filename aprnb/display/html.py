"""A document as HTML without scripts, style sheets and a kernel.

It passes the sanitisers of GitHub and of untrusted notebooks: semantic elements, inline colours, and a sign or word
wherever a colour is used. Only `escaped` and `passage_html` turn text into HTML.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Callable

from aprnb.display.document import (
    MESSAGE_SIGNS,
    STATUS_WORDS,
    Block,
    Cell,
    Column,
    Details,
    Document,
    Fields,
    Kind,
    Messages,
    Paragraph,
    Passage,
    Picture,
    Status,
    Table,
    Tokens,
    cell_text,
    messages_shown,
    rows_shown,
    table_cell,
)
from aprnb.printable import running_text, visible_lines

_ROW_LIMIT = 400
# Contrast of at least 3 : 1 on white and on the dark theme's #111, as signs need; words have the page's own colour.
_STATUS_COLOURS: dict[Status, str] = {"ok": "#2e8b57", "warning": "#b7791f", "failed": "#d64545"}
_MESSAGE_COLOURS = {"warning": "#b7791f", "error": "#d64545", "assumption": "#6b7fd7"}
_TRAINED_STYLES = ("background: #2e8b5733; color: inherit", "background: #2e8b5766; color: inherit")
_TOKEN_STYLES = {
    "context": "opacity: 0.7",
    "end": "background: none; color: inherit; border: 1px solid #2e8b57; border-radius: 3px",
}
_LINE = "1px solid #8886"
# The default layout of notebooks is fixed: long names would overlap the next column.
_TABLE = "border-collapse: collapse; table-layout: auto; width: auto"
_MONO = "font-family: monospace"
# Inherited styles are set on the table: with a style per cell, a table of 400 tensors takes half a megabyte.
_GRID = f"{_TABLE}; white-space: nowrap; font-variant-numeric: tabular-nums"
_ROW = f"border-bottom: {_LINE}"


def escaped(text: str) -> str:
    """Text as HTML: markup inert, invisible characters shown, line breaks kept."""
    return "<br>".join(html.escape(line, quote=True) for line in visible_lines(text))


def to_html(document: Document, table_html: Callable[[Table], str] | None = None) -> str:
    """The whole document; `table_html` replaces the rendering of tables (the notebook's interactive tables)."""
    colour = _STATUS_COLOURS[document.status] if document.status else "#888"
    head = f'<strong style="font-size: 110%">{escaped(document.title)}</strong>'
    if document.status:
        sign, word = STATUS_WORDS[document.status].split(" ")
        head += f' &nbsp;<span class="aprnb-status"><b style="color: {colour}">{sign}</b> {word}</span>'
    body = "\n".join(_block_html(block, table_html or static_table) for block in document.blocks)
    style = f"border-left: 3px solid {colour}; padding: 2px 0 2px 14px; margin: 4px 0; line-height: 1.5"
    title = f'<p class="aprnb-title" style="margin: 0 0 6px">{head}</p>'
    return f'<div class="aprnb-document" style="{style}">\n{title}\n{body}\n</div>'


def _block_html(block: Block, table_html: Callable[[Table], str]) -> str:
    match block:
        case Paragraph(text):
            return f'<p class="aprnb-paragraph" style="margin: 4px 0">{escaped(text)}</p>'
        case Passage(text):
            return passage_html(text)
        case Tokens(pieces):
            return _tokens_html(pieces)
        case Fields(rows):
            return _fields_html(rows)
        case Table():
            return table_html(block)
        case Picture(png, alt):
            source = b64encode(png).decode("ascii")
            return f'<img class="aprnb-picture" src="data:image/png;base64,{source}" alt="{escaped(alt)}">'
        case Messages(kind):
            return _messages_html(kind, messages_shown(block))
        case Details(title, blocks):
            inner = "\n".join(_block_html(part, table_html) for part in blocks)
            summary = f'<summary style="cursor: pointer; padding: 2px 0">{escaped(title)}</summary>'
            return f'<details class="aprnb-details" style="margin: 4px 0">{summary}\n{inner}\n</details>'


def passage_html(text: str) -> str:
    style = "white-space: pre-wrap; margin: 4px 0; background: none; color: inherit; font-size: inherit"
    return f'<pre class="aprnb-passage" style="{style}">{html.escape(running_text(text), quote=True)}</pre>'


def _tokens_html(pieces: tuple[tuple[str, Kind], ...]) -> str:
    """Context in grey; trained tokens on two shades in turn, so that each is seen; ends in a frame."""
    parts = []
    for at, (piece, kind) in enumerate(pieces):
        text = html.escape(running_text(piece), quote=True)
        style = _TOKEN_STYLES[kind] if kind != "trained" else _TRAINED_STYLES[at % 2]
        tag = "span" if kind == "context" else "mark"
        parts.append(f'<{tag} title="{kind}" style="{style}">{text}</{tag}>')
    style = "white-space: pre-wrap; margin: 4px 0 10px; background: none; color: inherit; font-size: inherit"
    return f'<pre class="aprnb-tokens" style="{style}">{"".join(parts)}</pre>'


def _fields_html(rows: tuple[tuple[str, Cell, str], ...]) -> str:
    cell = "padding: 1px 18px 1px 0; border: 0; text-align: left; vertical-align: top"
    quiet = f"{cell}; opacity: 0.75"
    lines = "\n".join(
        f'<tr style="background: none"><th scope="row" style="{quiet}; font-weight: normal">{escaped(name)}</th>'
        f'<td style="{cell}; {_MONO}">{escaped(cell_text(value))}</td>'
        f'<td style="{quiet}">{escaped(note)}</td></tr>'
        for name, value, note in rows
    )
    style = f"{_TABLE}; margin: 4px 0"
    return f'<table class="aprnb-fields" style="{style}">\n<tbody>\n{lines}\n</tbody>\n</table>'


def _messages_html(kind: str, items: tuple[str, ...]) -> str:
    sign = f'<b style="color: {_MESSAGE_COLOURS[kind]}">{MESSAGE_SIGNS[kind]}</b>'
    lines = "\n".join(f"<li>{sign} {kind}: {escaped(item)}</li>" for item in items)
    return f'<ul class="aprnb-messages" style="list-style: none; margin: 4px 0; padding: 0">\n{lines}\n</ul>'


def static_table(table: Table, row_limit: int | None = _ROW_LIMIT, table_id: str | None = None) -> str:
    """A heading line (GitHub removes captions) and a table; above `row_limit` rows, the first half and a count.

    `table_id` lets a script find the table; without it equal tables give equal HTML.
    """
    rows, hidden = rows_shown(table, row_limit)
    heads = "".join(
        f'<th scope="col" style="{_cell_style(column)}">{escaped(column.name)}</th>' for column in table.columns
    )
    numeric = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(table.columns))]
    lines = "\n".join(f'<tr style="{_ROW}">{_row_html(table.columns, numeric, row)}</tr>' for row in rows)
    total = len(rows) + hidden
    count = f"{total:,} row{'' if total == 1 else 's'}" + (f", {hidden:,} of them not shown" if hidden else "")
    caption = f"{escaped(table.title)}: {count}"
    identity = f' id="{table_id}"' if table_id else ""
    return (
        f'<p class="aprnb-heading" style="margin: 8px 0 2px"><strong>{escaped(table.title)}</strong></p>\n'
        f'<table class="aprnb-table"{identity} style="{_GRID}; margin: 0 0 6px">\n'
        f'<caption style="caption-side: bottom; text-align: left; opacity: 0.75">{caption}</caption>\n'
        f'<thead><tr style="{_ROW}">{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>'
    )


def _row_html(columns: tuple[Column, ...], numeric: list[bool], row: tuple[Cell, ...]) -> str:
    return "".join(
        f'<td{_sort_key(value) if number else ""} style="{_cell_style(column)}">{escaped(table_cell(value))}</td>'
        for column, number, value in zip(columns, numeric, row, strict=True)
    )


def _sort_key(value: Cell) -> str:
    """The value that is sorted by: shown numbers have separators. Every cell of a numeric column needs one."""
    return f' data-order="{escaped(str(-1 if value is None else value))}"'


def _cell_style(column: Column) -> str:
    return f"text-align: {column.align}"
