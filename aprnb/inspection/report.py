"""The report that `aprnb.inspect` returns: file, architecture, contract, tokenizer and values, as JSON and document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aprnb.architecture import Architecture, ContractReport
from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Column, Details, Document, Fields, Messages, Paragraph, Status, Table
from aprnb.errors import ArchitectureError, ContractError, UnsupportedFamily
from aprnb.formats import Checkpoint
from aprnb.inspection.provenance import provenance, provenance_block
from aprnb.inspection.statistics import Statistics, values_blocks
from aprnb.inspection.tables import (
    Share,
    data_frame,
    dtype_table,
    layer_table,
    shares_by_dtype,
    shares_by_layer,
    tensor_table,
)
from aprnb.tokenizer.end_tokens import end_notes
from aprnb.units import bytes_text, count_text

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Report(Displayed):
    """What `aprnb.inspect` found; the last expression of a notebook cell shows it as a card.

    Attributes:
        checkpoint: the open `Checkpoint`.
        architecture: the resolved `Architecture`; None where it cannot be resolved.
        architecture_error: the reason for that, else None.
        contract: the `ContractReport`; None without an architecture.
        tokenizer: kind, vocabulary size, special tokens, pre-tokenizer and chat template.
        statistics: of all tensors' values with `stats=True`, else None.
    """

    checkpoint: Checkpoint
    architecture: Architecture | None
    architecture_error: ArchitectureError | None
    contract: ContractReport | None
    tokenizer: Mapping[str, Any]
    statistics: Statistics | None = None

    @property
    def ok(self) -> bool:
        """Whether the architecture is resolved, every tensor matches it, and all values that were read are finite."""
        values = self.statistics is None or self.statistics.ok
        return self.contract is not None and self.contract.ok and values

    @property
    def exit_code(self) -> int:
        """0 if nothing is wrong or only the family is not supported, else 5."""
        if self.statistics is not None and not self.statistics.ok:
            return ContractError.exit_code
        if self.architecture_error:
            return 0 if isinstance(self.architecture_error, UnsupportedFamily) else self.architecture_error.exit_code
        return 0 if self.ok else ContractError.exit_code

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about file, architecture and tokenizer, each once."""
        found = [*self.checkpoint.warnings, *(self.architecture.warnings if self.architecture else ())]
        found += [*self.tokenizer.get("warnings", ()), *_declared_quantization(self.checkpoint)]
        if self.architecture:
            found += end_notes(self.checkpoint.metadata, self.architecture.vocab_size)
        return tuple(dict.fromkeys(found))

    @property
    def parameters(self) -> dict[str, int]:
        """Elements of all index entries as `total`, and of the model with a tied head counted once as `unique`."""
        total = sum(entry.elements for entry in self.checkpoint.tensors.values())
        return {"total": total, "unique": self.contract.parameters if self.contract else total}

    def layers(self) -> tuple[Share, ...]:
        """Number, elements and bytes of the tensors outside the layers, then of each layer."""
        return shares_by_layer(self.checkpoint.tensors.values())

    def dtypes(self) -> tuple[Share, ...]:
        """Number, elements and bytes of the tensors of each dtype, most bytes first."""
        return shares_by_dtype(self.checkpoint.tensors.values())

    @property
    def df(self) -> DataFrame:
        """A pandas DataFrame with name, dtype, shape, offset and size in bytes of each tensor."""
        return data_frame(self.to_json()["tensors"])

    def to_json(self) -> dict[str, Any]:
        """The document of `aprnb inspect --json`."""
        settled: dict[str, Any] = (
            {"architecture": self.architecture.to_json()}
            if self.architecture
            else {"architecture_error": str(self.architecture_error)}
        )
        return {
            "file": self.file_facts(),
            **settled,
            "parameters": self.parameters,
            "tensors": [
                {
                    "name": entry.name,
                    "dtype": entry.dtype.name,
                    "shape": list(entry.shape),
                    "offset": entry.offset,
                    "size_bytes": entry.size_bytes,
                }
                for entry in self.checkpoint.tensors.values()
            ],
            "provenance": provenance(self.checkpoint),
            "tokenizer": dict(self.tokenizer),
            "contract": self.contract.to_json() if self.contract else {"ok": None, "checked": 0, "violations": []},
            "assumptions": list(self.architecture.assumptions) if self.architecture else [],
            "warnings": list(self.warnings),
            **({"statistics": self.statistics.to_json()} if self.statistics else {}),
        }

    def file_facts(self) -> dict[str, Any]:
        """Path, size in bytes, format, version, flags and checksums."""
        contents = self.checkpoint.contents
        return {
            "path": str(self.checkpoint.path),
            "size_bytes": self.checkpoint.size_bytes,
            "format": contents.format,
            "version": contents.version,
            "flags": list(contents.flags),
            "header_checksum": contents.checksums.get("header"),
            "footer_checksum": contents.checksums.get("footer"),
        }

    def document(self) -> Document:
        """The card: verdict, warnings, and the tables of layers and tensors."""
        blocks: list[Block] = [Paragraph(_verdict(self)), Fields(_file(self)), *provenance_block(self.checkpoint)]
        if self.contract and self.contract.violations:
            columns = (Column("tensor"), Column("kind"), Column("expected"), Column("found"))
            rows = tuple((v.tensor, v.kind, v.expected, v.found) for v in self.contract.violations)
            blocks.append(Table("Contract violations", columns, rows))
        if self.warnings:
            blocks.append(Messages("warning", self.warnings))
        if self.architecture:
            blocks.append(Details("Architecture", (Fields(self.architecture.rows()),)))
            if self.architecture.assumptions:
                blocks.append(Messages("assumption", self.architecture.assumptions))
        blocks.append(Details("Bytes by dtype", (dtype_table(self.dtypes()),)))
        blocks.append(layer_table(self.layers()))
        blocks.append(tensor_table(self.checkpoint, self.contract))
        if self.statistics:
            blocks += values_blocks(self.statistics)
        blocks.append(Details("Tokenizer", (Fields(_tokenizer_rows(self.tokenizer)),)))
        return Document(self.checkpoint.path.name, _status(self), tuple(blocks))


def _tokenizer_rows(tokenizer: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Name, value and source; a problem only where there is one."""
    left_out = {"warnings", *(() if tokenizer.get("problem") else ("problem",))}
    return tuple((name, *_words(value)) for name, value in tokenizer.items() if name not in left_out)


def _words(value: Any) -> tuple[str, str]:
    """A value of the tokenizer's description, and where it comes from."""
    if not isinstance(value, Mapping):
        return ("none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)), ""
    if "id" in value:
        return f"{value['token']} ({value['id']:,})", ""
    characters = value.get("characters")
    name = value.get("name") if "name" in value else None if characters is None else f"{characters:,} characters"
    return str(name or "unknown"), str(value.get("source", ""))


def _declared_quantization(checkpoint: Checkpoint) -> list[str]:
    """A quantization that the metadata declare and no tensor has."""
    declared = checkpoint.metadata.get("quantization")
    if not isinstance(declared, Mapping):
        return []
    scheme = str(declared.get("quant_type", ""))
    measured = sorted({e.dtype.name for e in checkpoint.tensors.values() if e.dtype.is_quantized})
    if scheme.upper().replace("_M", "").replace("_S", "") in (name.upper() for name in measured):
        return []
    return [f"metadata declares quantization {scheme!r}; the tensors hold {', '.join(measured) or 'none'}"]


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
        return f"Contract: all {report.contract.checked} tensors match this {model} model."
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
