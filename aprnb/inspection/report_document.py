"""An inspection report as a document: verdict, file, architecture with sources, sizes, tensors, tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aprnb.display.document import Block, Column, Details, Document, Fields, Messages, Paragraph, Status, Table
from aprnb.inspection.statistics_document import values_table
from aprnb.units import bytes_text, count_text

if TYPE_CHECKING:
    from aprnb.inspection.report import Report, Share

_SHARE_COLUMNS = (Column("tensors", "right"), Column("parameters", "right"), Column("bytes", "right"))
_TENSOR_COLUMNS = (
    Column("name"),
    Column("dtype"),
    Column("shape"),
    Column("bytes", "right"),
    Column("symbolic shape"),
    Column("offset", "right"),
)


def report_document(report: Report) -> Document:
    blocks: list[Block] = [Paragraph(_verdict(report)), Fields(_file(report))]
    if report.contract and report.contract.violations:
        columns = (Column("tensor"), Column("kind"), Column("expected"), Column("found"))
        rows = tuple((v.tensor, v.kind, v.expected, v.found) for v in report.contract.violations)
        blocks.append(Table("Contract violations", columns, rows))
    if report.warnings:
        blocks.append(Messages("warning", report.warnings))
    if report.architecture:
        blocks.append(Details("Architecture", (Fields(_architecture(report)),)))
        if report.architecture.assumptions:
            blocks.append(Messages("assumption", report.architecture.assumptions))
    blocks.append(Details("Bytes by dtype", (_shares("By dtype", "dtype", report.dtypes()),)))
    blocks.append(layer_table(report))
    blocks.append(tensor_table(report))
    if report.statistics:
        blocks.append(values_table(report.statistics))
    blocks.append(Details("Tokenizer", (Fields(_tokenizer(report)),)))
    return Document(report.checkpoint.path.name, _status(report), tuple(blocks))


def layer_table(report: Report) -> Table:
    columns = (Column("layer"), *_SHARE_COLUMNS, Column("dtypes"))
    return Table("Layers", columns, tuple((*_figures(share), ", ".join(share.dtypes)) for share in report.layers()))


def tensor_table(report: Report) -> Table:
    symbolic = {row.tensor: row.arithmetic for row in report.contract.rows} if report.contract else {}
    rows = tuple(
        (
            entry.name,
            entry.dtype.name,
            " × ".join(map(str, entry.shape)),
            entry.size_bytes,
            "no bytes: tied to the embedding" if entry.is_tied_placeholder else symbolic.get(entry.name, ""),
            entry.offset,
        )
        for entry in report.checkpoint.tensors.values()
    )
    return Table("Tensors", _TENSOR_COLUMNS, rows)


def _status(report: Report) -> Status:
    if not report.ok:
        return "failed"
    return "warning" if report.warnings else "ok"


def _verdict(report: Report) -> str:
    if report.architecture_error:
        return f"Contract not checked: {report.architecture_error}"
    assert report.architecture
    assert report.contract
    model = report.architecture.model_type
    if report.statistics and report.statistics.damaged:
        damaged = [row.name for row in report.statistics.damaged]
        return f"{len(damaged)} tensors hold NaN or infinite values, first {damaged[0]}."
    if report.contract.ok:
        return f"Contract: all {report.contract.checked} tensors are those of this {model} model."
    return f"Contract broken: {len(report.contract.violations)} violations against a {model} model."


def _file(report: Report) -> tuple[tuple[str, str, str], ...]:
    facts, parameters = report.file_facts(), report.parameters
    return (
        ("file", facts["path"], f"{bytes_text(facts['size_bytes'])} ({facts['size_bytes']:,} bytes)"),
        ("format", f"{facts['format']} {facts['version']}".rstrip(), ", ".join(facts["flags"]) or "no flags"),
        *_checksums(report),
        (
            "parameters",
            count_text(parameters["unique"]),
            f"{parameters['total']:,} in {len(report.checkpoint)} index entries",
        ),
    )


def _checksums(report: Report) -> tuple[tuple[str, str, str], ...]:
    states = [f"{name} {state}" for name, state in report.checkpoint.contents.checksums.items()]
    return (("checksums", states[0], ", ".join(states[1:])),) if states else ()


def _architecture(report: Report) -> tuple[tuple[str, str, str], ...]:
    assert report.architecture
    settled = report.architecture.to_json()
    return tuple((name, str(field["value"]), str(field["source"])) for name, field in settled.items())


def _shares(title: str, first: str, shares: Iterable[Share]) -> Table:
    return Table(title, (Column(first), *_SHARE_COLUMNS), tuple(_figures(share) for share in shares))


def _figures(share: Share) -> tuple[str, int, int, int]:
    return share.name, share.tensors, share.parameters, share.size_bytes


def _tokenizer(report: Report) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, str(value), "") for name, value in report.tokenizer.items() if name != "warnings")
