"""The contract: compares the tensors of a file with those that the model requires. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from aprnb.architecture.architecture import Architecture, ExpectedTensor, expected_tensors
from aprnb.architecture.arrangement import Part, StoredWeight, arrange
from aprnb.architecture.contract_report import ContractReport, ContractRow, Violation
from aprnb.architecture.resolve import resolve
from aprnb.formats import Checkpoint, TensorEntry, open_checkpoint


def check(
    path: str | os.PathLike[str] | Checkpoint,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> ContractReport:
    """Compare a checkpoint's tensors with those that its architecture requires; needs no torch.

    Reads no weights, except to compare the output head with the embedding.

    Args:
        path: a checkpoint file, a Hugging Face folder, or an open `Checkpoint`.
        config: a `config.json` (path or dict) for fields that the file does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.
        strict: raise CheckpointError for any warning.

    Returns:
        The `ContractReport`. A mismatch is a violation in it; `raise_for_violations` makes it an exception.

    Raises:
        UsageProblem: `config` or `overrides` are not valid.
        FileMissing: nothing is at `path`, or no config is at `config`.
        CheckpointError: the file is malformed.
        ArchitectureError: the file contradicts itself or leaves a field open, or its family is not supported.

    Example:
        >>> report = aprnb.check("pocket-qwen3.apr")
        >>> report.ok, report.checked, report.parameters
        (True, 35, 869632)
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path, strict=strict)
    architecture = resolve(checkpoint, config=config, overrides=overrides)
    if strict:
        checkpoint.reject_warnings((*checkpoint.warnings, *architecture.warnings))
    return check_contract(checkpoint, architecture)


def check_contract(checkpoint: Checkpoint, architecture: Architecture) -> ContractReport:
    """`check` of an open checkpoint against an architecture that is resolved already."""
    expected = expected_tensors(architecture)
    stored, surplus = arrange(checkpoint, architecture, expected)
    rows: list[ContractRow] = []
    violations: list[Violation] = []
    of_parts: set[Violation] = set()  # a tensor that makes several weights is compared for each of them
    for name, tensor in expected.items():
        weight = stored.get(name)
        if weight is None:
            violations.append(Violation(name, "missing", tensor.arithmetic, "no such tensor"))
            rows.append(ContractRow(name, tensor.arithmetic, tensor.shape, None, "missing"))
            continue
        found = _compare(checkpoint, tensor, weight)
        entry = checkpoint.tensors[weight.parts[0].tensor]
        verdict = found[0].kind if found else "ok"
        rows.append(ContractRow(entry.name, tensor.arithmetic, tensor.shape, entry, verdict))
        violations += [violation for violation in found if violation not in of_parts]
        of_parts.update(found)
    for name in surplus:
        entry = checkpoint.tensors[name]
        violations.append(Violation(name, "unexpected", "no such tensor", _described(entry.dtype.name, entry.shape)))
    weights = {name: weight.parts[0].tensor for name, weight in stored.items()}
    readings = {name: weight.reading for name, weight in stored.items() if weight.reading}
    return ContractReport(checkpoint.path, architecture, tuple(rows), tuple(violations), weights, readings)


@lru_cache(maxsize=1024)
def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


def _compare(checkpoint: Checkpoint, expected: ExpectedTensor, weight: StoredWeight) -> list[Violation]:
    pairs = [(part, checkpoint.tensors[part.tensor]) for part in weight.parts]
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
