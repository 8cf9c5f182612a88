"""A contract report as a document: verdict, violations in full, the table with its arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprnb.display.document import Block, Column, Details, Document, Fields, Paragraph, Table

if TYPE_CHECKING:
    from aprnb.architecture.contract import ContractReport

_COLUMNS = (Column("tensor"), Column("expected shape"), Column("found"), Column("dtype"), Column("verdict"))
_VIOLATION_COLUMNS = (Column("tensor"), Column("kind"), Column("expected"), Column("found"))


def contract_document(report: ContractReport) -> Document:
    verdict = (
        f"all {report.checked} tensors are those of this {report.architecture.model_type} model"
        if report.ok
        else f"{len(report.violations)} violations among {report.checked} expected tensors"
    )
    blocks: list[Block] = [Paragraph(verdict)]
    if report.violations:
        rows = tuple((v.tensor, v.kind, v.expected, v.found) for v in report.violations)
        blocks.append(Table("Violations", _VIOLATION_COLUMNS, rows))
    architecture = tuple(
        (name, str(value), report.architecture.sources.get(name, ""))
        for name, value in report.architecture.fields().items()
    )
    blocks.append(Details("Architecture", (Fields(architecture),)))
    blocks.append(Details("All tensors", (Table("Tensors", _COLUMNS, _rows(report)),)))
    return Document(f"Contract of {report.path.name}", "ok" if report.ok else "failed", tuple(blocks))


def _rows(report: ContractReport) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            row.tensor,
            row.arithmetic,
            str(list(row.entry.shape)) if row.entry else "—",
            row.entry.dtype.name if row.entry else "—",
            row.verdict,
        )
        for row in report.rows
    )
