"""What a conversion will write, known before it starts: each tensor's type and size in the source and in the target."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aprnb.architecture import ContractReport, Family
from aprnb.architecture.names import canonical_name
from aprnb.conversion.tensors import is_tied_head
from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Column, Document, Fields, Messages, Table
from aprnb.errors import OutputError
from aprnb.formats import Checkpoint
from aprnb.formats.contents import HEAD_NAME, Progress
from aprnb.formats.dtypes import BY_NAME, DType
from aprnb.units import bytes_text

Kind = Literal["apr", "gguf", "safetensors", "huggingface"]
Part = Literal["embedding", "head", "others"]
TIED = "tied"
"""The type of a head that is the embedding and has no bytes."""
_ROUNDING = {
    "F16": "by at most 0.05 % (values below 6e-5 by at most 3e-8)",
    "BF16": "by at most 0.4 %",
}
"""Half a unit of the last of 11 and of 8 bits."""
_QUANTIZED = frozenset(name for name, dtype in BY_NAME.items() if dtype.is_quantized)
_PARTS: tuple[Part, ...] = ("embedding", "head", "others")
_GREW = 1.05


@dataclass(frozen=True, slots=True)
class TensorSize:
    """One tensor: its type and bytes in the source and in the target."""

    part: Part
    stored: str
    written: str
    stored_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class SizeRow:
    """All tensors of a part of the model that have one type in the source and one in the target."""

    part: Part
    stored: str
    written: str
    tensors: int
    stored_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class Written:
    """How many tensors a writer wrote, and notes on what the target does not keep."""

    tensors: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversion that is ready to be written; `notes` are warnings about the chosen types.

    `write` takes the target, whether it may be overwritten, and what is called with the bytes done. `require` raises
    OutputError for an architecture that the format cannot express.
    """

    sizes: tuple[TensorSize, ...]
    notes: tuple[str, ...]
    write: Callable[[Path, bool, Progress], Written]
    require: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class ConversionPlan(Displayed):
    """What a conversion will write, from the types and shapes alone.

    Attributes:
        source: the file or folder that is read.
        target: the file or folder to write.
        format: "apr", "gguf", "safetensors" or "huggingface" (a folder).
        rows: what becomes what: part of the model, type in the source and in the target, count, bytes of both.
        smaller: values of `dtype` that give a smaller file, each with the bytes of its tensors; the largest first.
        warnings: values that are rounded, and tensors that do not get the type asked for.
        modelfile: the Modelfile for Ollama that is also written, or None.
    """

    source: Path
    target: Path
    format: Kind
    rows: tuple[SizeRow, ...]
    smaller: tuple[tuple[str, int], ...] = ()
    warnings: tuple[str, ...] = ()
    modelfile: Path | None = None

    @property
    def source_bytes(self) -> int:
        """Of the tensors that are read."""
        return sum(row.stored_bytes for row in self.rows)

    @property
    def size_bytes(self) -> int:
        """Of the tensors that are written; metadata and tokenizer are not counted."""
        return sum(row.written_bytes for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "source": str(self.source),
            "target": str(self.target),
            "format": self.format,
            **self.modelfile_json(),
            "source_bytes": self.source_bytes,
            "size_bytes": self.size_bytes,
            "sizes": self.rows_json(),
            "smaller": dict(self.smaller),
            "warnings": list(self.warnings),
        }

    def modelfile_json(self) -> dict[str, str]:
        """The Modelfile's path by name, if one is written."""
        return {"modelfile": str(self.modelfile)} if self.modelfile else {}

    def rows_json(self) -> list[dict[str, Any]]:
        """The rows with their fields by name."""
        names = SizeRow.__slots__
        return [{name: getattr(row, name) for name in names} for row in self.rows]

    def blocks(self) -> tuple[Block, ...]:
        """Both sizes, the table, and where the target is larger than the source what makes it smaller."""
        shown: list[Block] = [
            Fields((("tensor data", f"{bytes_text(self.source_bytes)} → {bytes_text(self.size_bytes)}", ""),)),
            _table(self.rows),
        ]
        if self.smaller and self.size_bytes > _GREW * self.source_bytes:
            shown.append(Fields((("smaller with", options_text(self.smaller), ""),)))
        return tuple(shown)

    def document(self) -> Document:
        """Source and target, sizes, and the warnings."""
        warnings = (Messages("warning", self.warnings),) if self.warnings else ()
        return self._document(warnings)

    def announcement(self) -> Document:
        """The document without the warnings, for a conversion that begins: its result repeats them."""
        return self._document(())

    def _document(self, warnings: tuple[Block, ...]) -> Document:
        named = Fields((("from", str(self.source), ""), *self.written_rows()))
        return Document(f"Plan of {self.target.name}", None, (named, *self.blocks(), *warnings))

    def written_rows(self) -> tuple[tuple[str, str, str], ...]:
        """What is written and where: the target, and the Modelfile if there is one."""
        also = (("also", str(self.modelfile), "for Ollama"),) if self.modelfile else ()
        return (("to", str(self.target), self.format), *also)


def options_text(smaller: Sequence[tuple[str, int]]) -> str:
    """`--dtype q8 (502.31 MiB), --dtype q4_k (370.12 MiB)`."""
    return ", ".join(f"--dtype {name} ({bytes_text(size)})" for name, size in smaller)


def tensor_size(
    family: Family, name: str, stored: DType, stored_bytes: int, written: DType, written_bytes: int
) -> TensorSize:
    """The size of a tensor under any of its names."""
    known = canonical_name(name, family)
    part: Part = "head" if known == HEAD_NAME else "embedding" if known == family.tensors[0].name else "others"
    return TensorSize(part, stored.name, written.name, stored_bytes, written_bytes)


def left_out_head(checkpoint: Checkpoint, report: ContractReport) -> tuple[TensorSize, ...]:
    """A stored head that equals the embedding: it is not written."""
    copies = [entry for name, entry in checkpoint.tensors.items() if is_tied_head(name, report.architecture)]
    return tuple(
        TensorSize("head", entry.dtype.name, TIED, entry.size_bytes, 0) for entry in copies if entry.size_bytes
    )


def size_rows(sizes: Iterable[TensorSize]) -> tuple[SizeRow, ...]:
    """The sizes by part and types, the largest first within a part."""
    groups: dict[tuple[Part, str, str], list[TensorSize]] = {}
    for size in sizes:
        groups.setdefault((size.part, size.stored, size.written), []).append(size)
    rows = [
        SizeRow(*key, len(group), sum(size.stored_bytes for size in group), sum(size.written_bytes for size in group))
        for key, group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (_PARTS.index(row.part), -row.written_bytes, row.stored, row.written)))


def rounding_notes(sizes: Sequence[TensorSize]) -> tuple[str, ...]:
    """The warnings about blocks of the source that become floats and change in the last bits."""
    notes = []
    for written, bound in _ROUNDING.items():
        rounded = [size for size in sizes if size.written == written and size.stored in _QUANTIZED]
        if rounded:
            types = ", ".join(sorted({size.stored for size in rounded}))
            notes.append(
                f"{len(rounded)} of {len(sizes)} tensors are written as {written}, in place of {types}: "
                f"their values are rounded {bound}"
            )
    return tuple(notes)


def require_space(plan: ConversionPlan) -> None:
    """Raises OutputError where the folder of the target has less free space than the tensors take."""
    folder = plan.target.absolute().parent
    if not folder.is_dir():
        return  # the writer's error names it
    free = shutil.disk_usage(folder).free
    if plan.size_bytes > free:
        also = f", or give {options_text(fitting)}" if (fitting := [s for s in plan.smaller if s[1] <= free]) else ""
        raise OutputError(
            f"{plan.target} needs {bytes_text(plan.size_bytes)} ({plan.size_bytes:,} bytes) of disk space, and "
            f"{bytes_text(free)} ({free:,} bytes) are free in {folder}",
            action=f"free space, or choose another folder{also}",
        )


def _table(rows: Sequence[SizeRow]) -> Table:
    columns = (
        Column("part"), Column("in the source"), Column("written as"),
        *(Column(name, "right") for name in ("tensors", "bytes before", "bytes after")),
    )  # fmt: skip
    return Table(
        "What becomes what",
        columns,
        tuple((row.part, row.stored, row.written, row.tensors, row.stored_bytes, row.written_bytes) for row in rows),
    )
