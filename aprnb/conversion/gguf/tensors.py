"""A checkpoint's tensors for a GGUF file: names, row order and types are those of llama.cpp's conversion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from aprnb.architecture import Architecture, ContractReport, ExpectedTensor, expected_tensors
from aprnb.architecture.arrangement import Reading
from aprnb.architecture.families import Family, TensorRule
from aprnb.architecture.weights import read_weight
from aprnb.conversion.equal_types import equal_parts, equal_type
from aprnb.conversion.gguf.types import Mix, fitted, mixed_type
from aprnb.conversion.tensors import checked, stored_size
from aprnb.formats import Checkpoint, TensorEntry
from aprnb.formats.codecs.decoding import decode
from aprnb.formats.codecs.encoding import encode_for_gguf
from aprnb.formats.dtypes import APR_Q4, APR_Q8, F16, F32, GGML, DType
from aprnb.formats.gguf.writer import GgufTensor

_PART_BYTES = 16 << 20
_NOT_OF_WEIGHTS = frozenset(("F64", "I8", "I16", "I32", "I64"))
"""Types of GGUF with which llama.cpp computes no product."""

Wanted = DType | Mix | None
"""The type of the matrices, a mix of types, or None for their own."""


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to write; `stored` is its dtype in the source, where it takes `stored_bytes`.

    `instead_of` is the requested type where another one is written. `again`: blocks are decoded and quantised a second
    time.
    """

    tensor: GgufTensor
    stored: DType
    stored_bytes: int
    instead_of: DType | None
    again: bool


@dataclass(frozen=True, slots=True)
class _Layout:
    """How GGUF stores a weight: rows of `heads` interleaved, `shift` added, [in, out] turned to [out, in]."""

    heads: int | None
    shift: float
    transposed: bool

    def undoes(self, reading: Reading | None) -> bool:
        """Whether the file stores the weight in this layout already, as one whole tensor."""
        if reading is None:
            return not (self.heads or self.shift or self.transposed)
        whole = len(reading.pieces) == 1 and reading.pieces[0].is_whole
        here = (reading.heads, -reading.shift, reading.transposed)
        return whole and here == (self.heads, self.shift, self.transposed)


def plan_tensors(checkpoint: Checkpoint, report: ContractReport, wanted: Wanted) -> list[PlannedTensor]:
    """The model's tensors under GGUF names, experts stacked."""
    groups: dict[str, list[ExpectedTensor]] = {}
    for expected in expected_tensors(report.architecture).values():
        groups.setdefault(expected.rule.gguf.format(layer=expected.layer), []).append(expected)
    return [_planned(checkpoint, report, name, tuple(group), wanted) for name, group in groups.items()]


def _planned(
    checkpoint: Checkpoint, report: ContractReport, name: str, group: tuple[ExpectedTensor, ...], wanted: Wanted
) -> PlannedTensor:
    first = group[0]
    shape = first.shape[::-1] if first.rule.role == "conv1d" else first.shape
    entry = checkpoint.tensors[report.weights[first.name]]
    of_the_tool = entry.dtype in (APR_Q4, APR_Q8) and len(group) == 1 and _copies_rows(report, first)
    equal = equal_type(checkpoint, entry) if of_the_tool else None
    target, instead_of = _target(first.rule, name, entry, shape, equal, wanted, report.architecture)

    def parts() -> Iterator[bytes | bytearray]:
        for expected in group:
            yield from _parts(checkpoint, report, expected, target, equal == target)

    stacked = (len(group), *shape) if first.rule.per_expert else shape
    kept = target == equal or (target == entry.dtype and _copies_rows(report, first))
    again = entry.dtype.is_quantized and target.is_quantized and not kept
    before = sum(stored_size(checkpoint, report, expected.name) for expected in group)
    return PlannedTensor(GgufTensor(name, target, stacked, parts), entry.dtype, before, instead_of, again)


def _target(
    rule: TensorRule,
    name: str,
    entry: TensorEntry,
    shape: tuple[int, ...],
    equal: DType | None,
    wanted: Wanted,
    architecture: Architecture,
) -> tuple[DType, DType | None]:
    """Vectors, routers and position embeddings are float32, as llama.cpp's conversion writes them."""
    if len(shape) < 2 or rule.role == "router" or "max_position_embeddings" in rule.shape:
        return F32, None
    if isinstance(wanted, Mix):
        return mixed_type(wanted, name, shape[-1], architecture), None
    if wanted is not None:
        target = fitted(wanted, shape[-1])
        return target, (None if target == wanted else wanted)
    known = entry.dtype in GGML.values() and entry.dtype.name not in _NOT_OF_WEIGHTS
    if known and shape[-1] % entry.dtype.block_elements == 0:
        return entry.dtype, None
    if equal is not None:
        return equal, None
    return (F16 if entry.dtype.is_quantized or entry.dtype.name.startswith("F8") else F32), None


def _layout(family: Family, expected: ExpectedTensor, report: ContractReport) -> _Layout:
    rule = expected.rule
    heads = report.architecture[rule.rotated_heads] if family.gguf.permutes_rows and rule.rotated_heads else None
    shift = 1.0 if family.gguf.adds_one_to_norms and rule.role == "norm" else 0.0
    return _Layout(heads, shift, rule.role == "conv1d")


def _copies_rows(report: ContractReport, expected: ExpectedTensor) -> bool:
    """Whether GGUF stores the rows as the file has them, in their order or reordered."""
    layout, reading = _layout(report.architecture.family, expected, report), report.readings.get(expected.name)
    return layout.undoes(reading) or (reading is None and not layout.shift and not layout.transposed)


def _parts(
    checkpoint: Checkpoint, report: ContractReport, expected: ExpectedTensor, target: DType, equal: bool
) -> Iterator[bytes | bytearray]:
    """The weight's bytes in GGUF's layout; copied or converted a few rows at a time if the file has that layout.

    `equal`: the target is the `equal_type` of the stored tensor.
    """
    layout = _layout(report.architecture.family, expected, report)
    entry, reading = checkpoint.tensors[report.weights[expected.name]], report.readings.get(expected.name)
    kept = (entry.dtype == target or equal) and _copies_rows(report, expected)
    if kept:
        stored = equal_parts(checkpoint, entry) if equal else checkpoint.raw_parts(entry.name)
        yield from stored if layout.undoes(reading) else (_permuted_bytes(stored, entry.shape[0], layout.heads),)
    elif layout.undoes(reading):
        yield from _converted(checkpoint, entry, target)
    else:
        values = read_weight(checkpoint, report, expected.name)
        values = values.T if layout.transposed else values + np.float32(layout.shift) if layout.shift else values
        yield _encoded(permute(values, layout.heads) if layout.heads else values, entry.name, target)


def _permuted_bytes(stored: Iterable[bytes | bytearray], rows: int, heads: int | None) -> bytes:
    assert heads is not None  # without it, the file has GGUF's layout
    return permute(np.frombuffer(b"".join(stored), np.uint8).reshape(rows, -1), heads).tobytes()


def _converted(checkpoint: Checkpoint, entry: TensorEntry, target: DType) -> Iterator[bytes]:
    """In another type, a few rows at a time where rows are whole blocks on both sides."""
    rows, columns = (entry.shape[0], entry.shape[1]) if len(entry.shape) == 2 else (1, max(1, entry.elements))
    row_bytes = entry.dtype.flat_size_bytes(columns)
    if entry.dtype.prefix_bytes or row_bytes * rows != entry.size_bytes or columns % entry.dtype.block_elements:
        yield _encoded(checkpoint[entry.name], entry.name, target)
        return
    step = max(1, _PART_BYTES // (4 * columns))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        raw = checkpoint.read_part(entry.name, start * row_bytes, count * row_bytes)
        yield _encoded(decode(raw, entry.dtype, (count, columns)), entry.name, target)


def _encoded(values: np.ndarray, name: str, target: DType) -> bytes:
    (values,) = checked((values,), name, target)
    return encode_for_gguf(values, target)


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of split halves to GGUF's interleaved pairs, per head: row j · head_dim/2 + i of a head goes to 2i + j."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
