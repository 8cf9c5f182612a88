"""A checkpoint's tensors for a GGUF file: names, row order and types are those of llama.cpp's conversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aprnb.architecture import ContractReport, ExpectedTensor, expected_tensors
from aprnb.architecture.arrangement import Reading
from aprnb.architecture.families import Family, TensorRule
from aprnb.architecture.weights import read_weight
from aprnb.conversion.tensors import checked
from aprnb.errors import MissingExtra
from aprnb.formats import Checkpoint, TensorEntry
from aprnb.formats.codecs.decoding import decode
from aprnb.formats.codecs.encoding import encode
from aprnb.formats.dtypes import F16, F32, GGML, DType
from aprnb.formats.gguf.writer import GgufTensor

_BY_GGUF_PACKAGE = ("Q8_0", "Q4_0")
_PART_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to write; `instead_of` is the requested or stored type where another one is written.

    `again`: blocks are decoded and quantised a second time.
    """

    tensor: GgufTensor
    instead_of: DType | None
    again: bool = False


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


def plan_tensors(checkpoint: Checkpoint, report: ContractReport, wanted: DType | None) -> list[PlannedTensor]:
    """The model's tensors under GGUF names, experts stacked; `wanted` is the matrices' type, None for their own."""
    groups: dict[str, list[ExpectedTensor]] = {}
    for expected in expected_tensors(report.architecture).values():
        groups.setdefault(expected.rule.gguf.format(layer=expected.layer), []).append(expected)
    return [_planned(checkpoint, report, name, tuple(group), wanted) for name, group in groups.items()]


def _planned(
    checkpoint: Checkpoint, report: ContractReport, name: str, group: tuple[ExpectedTensor, ...], wanted: DType | None
) -> PlannedTensor:
    first = group[0]
    shape = first.shape[::-1] if first.rule.role == "conv1d" else first.shape
    entry = checkpoint.tensors[report.weights[first.name]]
    target, instead_of = _target(first.rule, entry, shape, wanted)

    def parts() -> Iterator[bytes | bytearray]:
        for expected in group:
            yield from _parts(checkpoint, report, expected, target)

    stacked = (len(group), *shape) if first.rule.per_expert else shape
    again = entry.dtype.is_quantized and target.is_quantized and not _keeps_blocks(report, first, entry, target)
    return PlannedTensor(GgufTensor(name, target, stacked, parts), instead_of, again)


def _target(
    rule: TensorRule, entry: TensorEntry, shape: tuple[int, ...], wanted: DType | None
) -> tuple[DType, DType | None]:
    """Vectors, routers and position embeddings are float32, as llama.cpp's conversion writes them."""
    if len(shape) < 2 or rule.role == "router" or "max_position_embeddings" in rule.shape:
        return F32, None
    asked = entry.dtype if wanted is None else wanted
    fits = asked in GGML.values() and shape[-1] % asked.block_elements == 0
    return (asked, None) if fits else (F16, asked)


def _layout(family: Family, expected: ExpectedTensor, report: ContractReport) -> _Layout:
    rule = expected.rule
    heads = report.architecture[rule.rotated_heads] if family.gguf.permutes_rows and rule.rotated_heads else None
    shift = 1.0 if family.gguf.adds_one_to_norms and rule.role == "norm" else 0.0
    return _Layout(heads, shift, rule.role == "conv1d")


def _keeps_blocks(report: ContractReport, expected: ExpectedTensor, entry: TensorEntry, target: DType) -> bool:
    """Whether the stored bytes are written, in their order or with whole rows reordered."""
    layout, reading = _layout(report.architecture.family, expected, report), report.readings.get(expected.name)
    rows_only = reading is None and not layout.shift and not layout.transposed
    return entry.dtype == target and (layout.undoes(reading) or rows_only)


def _parts(
    checkpoint: Checkpoint, report: ContractReport, expected: ExpectedTensor, target: DType
) -> Iterator[bytes | bytearray]:
    """The weight's bytes in GGUF's layout; copied or converted a few rows at a time if the file has that layout."""
    layout = _layout(report.architecture.family, expected, report)
    entry, reading = checkpoint.tensors[report.weights[expected.name]], report.readings.get(expected.name)
    if layout.undoes(reading):
        same = entry.dtype == target
        yield from checkpoint.raw_parts(entry.name) if same else _converted(checkpoint, entry, target)
    elif layout.heads and _keeps_blocks(report, expected, entry, target):
        raw = np.frombuffer(checkpoint.raw(entry.name), np.uint8).reshape(entry.shape[0], -1)
        yield permute(raw, layout.heads).tobytes()
    else:
        values = read_weight(checkpoint, report, expected.name)
        values = values.T if layout.transposed else values + np.float32(layout.shift) if layout.shift else values
        yield _encoded(permute(values, layout.heads) if layout.heads else values, entry.name, target)


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
    if target.name not in _BY_GGUF_PACKAGE:
        return encode(values, target)
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise MissingExtra("gguf", "gguf") from None
    packed: np.ndarray = quants.quantize(np.ascontiguousarray(values), GGMLQuantizationType[target.name])
    return packed.tobytes()


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of split halves to GGUF's interleaved pairs, per head: row j · head_dim/2 + i of a head goes to 2i + j."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
