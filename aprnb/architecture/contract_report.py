"""The result of a contract check: expected and found tensors, compared, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from aprnb.architecture.architecture import Architecture
from aprnb.architecture.arrangement import Reading
from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Column, Details, Document, Fields, Paragraph, Table
from aprnb.errors import ContractError
from aprnb.formats import TensorEntry
from aprnb.printable import and_more, shown_name

Kind = Literal["missing", "unexpected", "shape", "dtype", "extent"]
_SHOWN, _NAMED = 10, 40
_COLUMNS = (Column("tensor"), Column("expected shape"), Column("found"), Column("dtype"), Column("verdict"))
_VIOLATION_COLUMNS = (Column("tensor"), Column("kind"), Column("expected"), Column("found"))


@dataclass(frozen=True, slots=True)
class Violation:
    """One tensor that differs from what the architecture expects."""

    tensor: str
    kind: Kind
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{shown_name(self.tensor)}: {self.kind}: expected {self.expected}, found {self.found}"

    def to_json(self) -> dict[str, str]:
        """The fields by name."""
        return {"tensor": self.tensor, "kind": self.kind, "expected": self.expected, "found": self.found}


@dataclass(frozen=True, slots=True)
class ContractRow:
    """One expected tensor: its symbolic shape with arithmetic, and the file's entry for it, if any."""

    tensor: str
    arithmetic: str
    expected_shape: tuple[int, ...]
    entry: TensorEntry | None
    verdict: str


@dataclass(frozen=True)
class ContractReport(Displayed):
    """The tensors that an architecture requires, compared with those of a file.

    Attributes:
        path: the file or folder.
        architecture: the `Architecture` that the tensors were compared with.
        rows: one for each required tensor, with its symbolic shape and the file's entry.
        violations: tensors that are missing, unexpected, without bytes, or of another shape or dtype.
        weights: weight of the model (Hugging Face name) → tensor of the file.
        readings: weight → how it is made, where it is not one unchanged tensor of the file.

    Example:
        >>> report = aprnb.check("pocket-qwen3.apr")
        >>> report.rows[0].arithmetic
        '[vocab_size, hidden_size] = [1024, 128]'
    """

    path: Path
    architecture: Architecture
    rows: tuple[ContractRow, ...]
    violations: tuple[Violation, ...]
    weights: Mapping[str, str]
    readings: Mapping[str, Reading] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are no violations."""
        return not self.violations

    @property
    def exit_code(self) -> int:
        """0 without violations, else 5."""
        return 0 if self.ok else ContractError.exit_code

    @property
    def checked(self) -> int:
        """The number of tensors that the architecture expects."""
        return len(self.rows)

    @property
    def parameters(self) -> int:
        """Unique parameters of the model, the sum over the expected shapes."""
        return sum(prod(row.expected_shape) for row in self.rows)

    def raise_for_violations(self) -> ContractReport:
        """Return the report itself, or raise ContractError with ten violations in full and forty more by name."""
        if self.ok:
            return self
        shown = "\n".join(f"  {violation}" for violation in self.violations[:_SHOWN])
        rest = self.violations[_SHOWN:]
        named = [shown_name(violation.tensor) for violation in rest[:_NAMED]]
        named += filter(None, [and_more(len(rest) - _NAMED)])
        more = f"\n  … {and_more(len(rest))}: {', '.join(named)}" if rest else ""
        raise ContractError(
            f"{len(self.violations)} of {self.checked} tensors do not match this "
            f"{self.architecture.model_type} model ({self.path}):\n{shown}{more}",
            action="the file or its metadata is wrong; nothing was loaded",
        )

    def to_json(self) -> dict[str, Any]:
        """Verdict, number of checked tensors and violations."""
        return {"ok": self.ok, "checked": self.checked, "violations": [v.to_json() for v in self.violations]}

    def document(self) -> Document:
        """Verdict, violations, architecture and all tensors."""
        return _document(self)


def _document(report: ContractReport) -> Document:
    verdict = (
        f"all {report.checked} tensors match this {report.architecture.model_type} model"
        if report.ok
        else f"{len(report.violations)} violations among {report.checked} expected tensors"
    )
    blocks: list[Block] = [Paragraph(verdict)]
    if report.violations:
        rows = tuple((v.tensor, v.kind, v.expected, v.found) for v in report.violations)
        blocks.append(Table("Violations", _VIOLATION_COLUMNS, rows))
    blocks.append(Details("Architecture", (Fields(report.architecture.rows()),)))
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
