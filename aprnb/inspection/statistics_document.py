"""Statistics as a document: the verdict, then a row for each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprnb.display.document import Block, Column, Document, Messages, Paragraph, Table

if TYPE_CHECKING:
    from aprnb.inspection.statistics import Statistics

_COLUMNS = (
    Column("tensor"),
    *(Column(name, "right") for name in ("elements", "minimum", "maximum", "mean", "std", "zeros", "NaN", "infinite")),
)


def statistics_document(statistics: Statistics) -> Document:
    rows = statistics.rows
    found = f"{len(statistics.damaged)} of {len(rows)} tensors hold NaN or infinite values"
    blocks: list[Block] = [Paragraph(f"all {len(rows)} tensors hold finite values" if statistics.ok else found)]
    if not statistics.ok:
        named = tuple(f"{row.name}: {row.nan:,} NaN, {row.infinite:,} infinite" for row in statistics.damaged)
        blocks.append(Messages("error", named))
    blocks.append(values_table(statistics))
    return Document("Values", "ok" if statistics.ok else "failed", tuple(blocks))


def values_table(statistics: Statistics) -> Table:
    return Table(
        "Values",
        _COLUMNS,
        tuple(
            (row.name, row.elements, row.minimum, row.maximum, row.mean, row.std, row.zeros, row.nan, row.infinite)
            for row in statistics.rows
        ),
    )
