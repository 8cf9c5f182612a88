"""Everything a checkpoint says about itself, and whether it holds: the report behind `%apr_inspect`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.architecture import Architecture, ContractReport, check_contract, resolve
from aprnb.architecture.names import layer_of
from aprnb.display.bundle import Displayed
from aprnb.errors import ArchitectureError, ContractError, ForeignFormat, UnsupportedFamily
from aprnb.formats import Checkpoint, TensorEntry, open
from aprnb.formats.sidecar_files import find_sidecars
from aprnb.inspection.foreign import ForeignReport
from aprnb.inspection.statistics import Statistics, tensor_statistics
from aprnb.tokenizer.description import describe_tokenizer

if TYPE_CHECKING:
    from pandas import DataFrame

    from aprnb.display.document import Document


@dataclass(frozen=True, slots=True)
class Share:
    """Part of the file: tensors, elements and bytes of one layer or one dtype."""

    name: str
    tensors: int
    parameters: int
    size_bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Report(Displayed):
    """What was found; `architecture` and `contract` are None where `architecture_error` says why."""

    checkpoint: Checkpoint
    architecture: Architecture | None
    architecture_error: ArchitectureError | None
    contract: ContractReport | None
    tokenizer: Mapping[str, Any]
    statistics: Statistics | None = None

    @property
    def ok(self) -> bool:
        """The architecture is settled, every tensor is as it calls for, and no value that was looked at is damaged."""
        values = self.statistics is None or self.statistics.ok
        return self.contract is not None and self.contract.ok and values

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong; a family that nobody here can build is no fault of the file."""
        if self.statistics is not None and not self.statistics.ok:
            return ContractError.exit_code
        if self.architecture_error:
            return 0 if isinstance(self.architecture_error, UnsupportedFamily) else self.architecture_error.exit_code
        return 0 if self.ok else ContractError.exit_code

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [*self.checkpoint.warnings, *(self.architecture.warnings if self.architecture else ())]
        found += [*self.tokenizer.get("warnings", ()), *_declared_quantization(self.checkpoint)]
        return tuple(dict.fromkeys(found))

    @property
    def parameters(self) -> dict[str, int]:
        """Elements of every index entry, and of the model with a tied head counted once."""
        total = sum(entry.elements for entry in self.checkpoint.tensors.values())
        return {"total": total, "unique": self.contract.parameters if self.contract else total}

    def layers(self) -> tuple[Share, ...]:
        """What lies outside the layers, then layer by layer."""
        groups: dict[int | None, list[TensorEntry]] = {}
        for entry in self.checkpoint.tensors.values():
            groups.setdefault(layer_of(entry.name), []).append(entry)
        order = sorted(groups, key=lambda layer: -1 if layer is None else layer)
        return tuple(_share("outside layers" if layer is None else f"layer {layer}", groups[layer]) for layer in order)

    def dtypes(self) -> tuple[Share, ...]:
        """Largest share of the bytes first."""
        groups: dict[str, list[TensorEntry]] = {}
        for entry in self.checkpoint.tensors.values():
            groups.setdefault(entry.dtype.name, []).append(entry)
        shares = (_share(name, entries) for name, entries in groups.items())
        return tuple(sorted(shares, key=lambda share: -share.size_bytes))

    @property
    def df(self) -> DataFrame:
        """The tensors as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(self.to_json()["tensors"])

    def to_json(self) -> dict[str, Any]:
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
            "tokenizer": dict(self.tokenizer),
            "contract": self.contract.to_json() if self.contract else {"ok": None, "checked": 0, "violations": []},
            "assumptions": list(self.architecture.assumptions) if self.architecture else [],
            "warnings": list(self.warnings),
            **({"statistics": self.statistics.to_json()} if self.statistics else {}),
        }

    def file_facts(self) -> dict[str, Any]:
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
        from aprnb.inspection.report_document import report_document

        return report_document(self)


def inspect(
    path: str | os.PathLike[str] | Checkpoint,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    verify: bool = False,
    strict: bool = False,
    stats: bool = False,
) -> Report | ForeignReport:
    """Reads header, metadata and index, settles the architecture and holds the tensors against it; no torch.

    A file of a family that cannot be built is reported too, with the reason; so is a related container that cannot be
    opened, by its header. `verify` also checks the footer checksum, `strict` refuses every warning, `stats` decodes
    every tensor and looks at its values. Raises FileMissing or CheckpointError for what does not open.
    """
    try:
        checkpoint = path if isinstance(path, Checkpoint) else open(path, verify=verify, strict=strict)
    except ForeignFormat as error:
        if not error.facts:
            raise
        return ForeignReport(Path(str(path)), error)
    architecture, contract, refusal = None, None, None
    try:
        architecture = resolve(checkpoint, config=config, overrides=overrides)
        contract = check_contract(checkpoint, architecture)
    except ArchitectureError as error:
        refusal = error
    values = tensor_statistics(checkpoint) if stats else None
    report = Report(checkpoint, architecture, refusal, contract, _tokenizer(checkpoint, architecture), values)
    if strict:
        checkpoint.refuse_warnings(report.warnings)
    return report


def _tokenizer(checkpoint: Checkpoint, architecture: Architecture | None) -> Mapping[str, Any]:
    stated = architecture.model_type if architecture else checkpoint.metadata.get("architecture")
    name = stated if isinstance(stated, str) else "unknown"
    return describe_tokenizer(checkpoint.metadata, name, find_sidecars(checkpoint.path))


def _share(name: str, entries: list[TensorEntry]) -> Share:
    return Share(
        name,
        len(entries),
        sum(entry.elements for entry in entries),
        sum(entry.size_bytes for entry in entries),
        tuple(sorted({entry.dtype.name for entry in entries})),
    )


def _declared_quantization(checkpoint: Checkpoint) -> list[str]:
    """A scheme that the metadata declares and no tensor has."""
    declared = checkpoint.metadata.get("quantization")
    if not isinstance(declared, Mapping):
        return []
    scheme = str(declared.get("quant_type", ""))
    measured = sorted({e.dtype.name for e in checkpoint.tensors.values() if e.dtype.is_quantized})
    if scheme.upper().replace("_M", "").replace("_S", "") in (name.upper() for name in measured):
        return []
    return [f"metadata declares quantization {scheme!r}; the tensors hold {', '.join(measured) or 'none'}"]
