"""The contract: the tensors a model must have, held against those a file has. Needs no torch, reads no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aprnb.architecture.architecture import Architecture, ExpectedTensor, expected_tensors
from aprnb.architecture.arrangement import Part, Placement, arrange
from aprnb.architecture.resolve import resolve
from aprnb.architecture.weights import Reading
from aprnb.display.bundle import Displayed
from aprnb.errors import ContractError
from aprnb.formats import Checkpoint, TensorEntry, open
from aprnb.formats.contents import shown_name

if TYPE_CHECKING:
    from aprnb.display.document import Document

Kind = Literal["missing", "unexpected", "shape", "dtype", "extent"]
_SHOWN, _NAMED = 10, 40


@dataclass(frozen=True, slots=True)
class Violation:
    """One tensor that is not as the architecture calls for."""

    tensor: str
    kind: Kind
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{shown_name(self.tensor)}: {self.kind}: expected {self.expected}, found {self.found}"

    def to_json(self) -> dict[str, str]:
        return {"tensor": self.tensor, "kind": self.kind, "expected": self.expected, "found": self.found}


@dataclass(frozen=True, slots=True)
class ContractRow:
    """One expected tensor: its symbolic shape with arithmetic, and the entry that plays the part, if any."""

    tensor: str
    arithmetic: str
    expected_shape: tuple[int, ...]
    entry: TensorEntry | None
    verdict: str


@dataclass(frozen=True)
class ContractReport(Displayed):
    """Every expected tensor and every one found, compared; `weights` maps model names to the file's names.

    `readings` says how the weights are made that are not one tensor of the file as it lies.
    """

    path: Path
    architecture: Architecture
    rows: tuple[ContractRow, ...]
    violations: tuple[Violation, ...]
    weights: Mapping[str, str]
    readings: Mapping[str, Reading] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def checked(self) -> int:
        """How many tensors the architecture calls for."""
        return len(self.rows)

    @property
    def parameters(self) -> int:
        """Unique parameters of the model: the sum over the expected shapes."""
        return sum(prod(row.expected_shape) for row in self.rows)

    def raise_for_violations(self) -> ContractReport:
        """Returns itself when all is well; raises ContractError with the first ten in full and forty more by name."""
        if self.ok:
            return self
        shown = "\n".join(f"  {violation}" for violation in self.violations[:_SHOWN])
        rest = self.violations[_SHOWN:]
        named = [shown_name(violation.tensor) for violation in rest[:_NAMED]]
        named += [f"and {len(rest) - _NAMED:,} more"] if len(rest) > _NAMED else []
        more = f"\n  … and {len(rest):,} more: {', '.join(named)}" if rest else ""
        raise ContractError(
            f"{len(self.violations)} of {self.checked} tensors are not those of this "
            f"{self.architecture.model_type} model ({self.path}):\n{shown}{more}",
            action="the file or its metadata is wrong; nothing was loaded",
        )

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "checked": self.checked, "violations": [v.to_json() for v in self.violations]}

    def document(self) -> Document:
        from aprnb.architecture.contract_document import contract_document

        return contract_document(self)


def check(
    path: str | os.PathLike[str] | Checkpoint,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> ContractReport:
    """Holds the file's tensors against the architecture that the file names.

    Raises CheckpointError or ArchitectureError where there is nothing to hold them against, and with `strict` for
    every warning of either; a mismatch is a violation in the report.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open(path, strict=strict)
    architecture = resolve(checkpoint, config=config, overrides=overrides)
    if strict:
        checkpoint.refuse_warnings((*checkpoint.warnings, *architecture.warnings))
    return check_contract(checkpoint, architecture)


def check_contract(checkpoint: Checkpoint, architecture: Architecture) -> ContractReport:
    expected = expected_tensors(architecture)
    placements, surplus = arrange(checkpoint, architecture, expected)
    rows: list[ContractRow] = []
    violations: list[Violation] = []
    of_parts: set[Violation] = set()  # a tensor that makes several weights is compared for each of them
    for name, tensor in expected.items():
        placement = placements.get(name)
        if placement is None:
            violations.append(Violation(name, "missing", tensor.arithmetic, "no such tensor"))
            rows.append(ContractRow(name, tensor.arithmetic, tensor.shape, None, "missing"))
            continue
        found = _compare(checkpoint, tensor, placement)
        entry = checkpoint.tensors[placement.parts[0].tensor]
        verdict = found[0].kind if found else "ok"
        rows.append(ContractRow(entry.name, tensor.arithmetic, tensor.shape, entry, verdict))
        violations += [violation for violation in found if violation not in of_parts]
        of_parts.update(found)
    for name in surplus:
        entry = checkpoint.tensors[name]
        violations.append(Violation(name, "unexpected", "no such tensor", _described(entry.dtype.name, entry.shape)))
    weights = {name: placement.parts[0].tensor for name, placement in placements.items()}
    readings = {name: placement.reading for name, placement in placements.items() if placement.reading}
    return ContractReport(checkpoint.path, architecture, tuple(rows), tuple(violations), weights, readings)


@lru_cache(maxsize=1024)
def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


def _compare(checkpoint: Checkpoint, expected: ExpectedTensor, placement: Placement) -> list[Violation]:
    pairs = [(part, checkpoint.tensors[part.tensor]) for part in placement.parts]
    return [found for part, entry in pairs if (found := _compare_part(expected, part, entry)) is not None]


def _compare_part(expected: ExpectedTensor, part: Part, entry: TensorEntry) -> Violation | None:
    if entry.shape not in part.shapes:
        wanted = expected.arithmetic if part.shapes[0] == expected.shape else str(list(part.shapes[0]))
        hint = " (transposed)" if entry.shape == part.shapes[0][::-1] else ""
        return Violation(entry.name, "shape", wanted, f"{list(entry.shape)}{hint}")
    if entry.size_bytes == 0:
        return Violation(entry.name, "extent", f"{entry.dtype.flat_size_bytes(entry.elements):,} bytes", "0 bytes")
    if not (entry.dtype.is_float or entry.dtype.is_quantized):
        return Violation(entry.name, "dtype", "a floating-point or block-quantised type", entry.dtype.name)
    return None
