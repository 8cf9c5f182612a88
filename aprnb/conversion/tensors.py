"""The dtype of each written tensor, and its bytes in that dtype, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from aprnb.architecture import Architecture, ContractReport
from aprnb.architecture.names import canonical_name
from aprnb.architecture.weights import read_weight
from aprnb.conversion.equal_types import equal_type
from aprnb.dtype_names import TARGETS
from aprnb.errors import AprnbError, ContractError, OutputError
from aprnb.formats import Checkpoint, TensorEntry
from aprnb.formats.codecs import can_encode, encode, encode_parts, stays_float32
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.contents import HEAD_NAME, Progress
from aprnb.formats.dtypes import APR_Q8, BY_NAME, F16, F32, LARGEST, LARGEST_FLOAT32, DType
from aprnb.formats.values import PART_ELEMENTS, value_parts

TARGET_DTYPES: dict[str, DType] = {dtype.short: BY_NAME[dtype.name] for dtype in TARGETS}
"""The values of `--dtype`."""


def target_dtype(name: str, shape: tuple[int, ...], wanted: DType) -> DType:
    """What `wanted` means for one tensor: float types for all, block types for the matrices that can have them.

    As the `apr` tool does: biases, norms and small tensors stay float32 in a quantised file. A matrix whose rows are
    not whole blocks becomes AprQ8, the tool's 8-bit type.
    """
    if wanted.is_float:
        return wanted
    if stays_float32(name, prod(shape)):
        return F32
    return wanted if can_encode(wanted, shape) else APR_Q8


def nearest_dtype(checkpoint: Checkpoint, entry: TensorEntry) -> DType:
    """The `.apr` type for a stored type that the format has no code for: one with equal values, else F16.

    Integers become F32, which holds what F16 cannot.
    """
    equal = equal_type(checkpoint, entry)
    if equal is not None:
        return equal
    return F16 if entry.dtype.is_quantized or entry.dtype.is_float else F32


def is_tied_head(name: str, architecture: Architecture) -> bool:
    """Whether this is the head, under any name, of a model whose head is the embedding."""
    return architecture.tie_word_embeddings and canonical_name(name, architecture.family) == HEAD_NAME


def stored_size(checkpoint: Checkpoint, report: ContractReport, name: str) -> int:
    """The bytes that the model's weight `name` takes in the file."""
    if name not in report.readings:
        return checkpoint.tensors[report.weights[name]].size_bytes
    pieces = report.readings[name].pieces
    return sum(checkpoint.tensors[p.tensor].size_bytes * (p.stop - p.start) // p.count for p in pieces)


@dataclass(frozen=True, slots=True)
class Origin:
    """A tensor of the source; or of its columns, cut into `parts` of one width, those of number `part`."""

    tensor: str
    part: int = 0
    parts: int = 1

    def shape(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        *rows, columns = checkpoint.tensors[self.tensor].shape
        return (*rows, columns // self.parts)


def tensor_bytes(checkpoint: Checkpoint, origin: Origin, dtype: DType) -> Iterable[bytes | bytearray]:
    """The origin in `dtype`: its own bytes where it has that type, else decoded and encoded in parts."""
    entry = checkpoint.tensors[origin.tensor]
    if origin.parts > 1:
        return _columns(checkpoint, origin, entry, dtype)
    if entry.dtype.name == dtype.name:
        return checkpoint.raw_parts(origin.tensor)
    return encode_parts(lambda: checked(value_parts(checkpoint, origin.tensor), origin.tensor, dtype), dtype)


def _columns(checkpoint: Checkpoint, origin: Origin, entry: TensorEntry, dtype: DType) -> Iterable[bytes]:
    shape = origin.shape(checkpoint)
    chosen = slice(origin.part * shape[-1], (origin.part + 1) * shape[-1])
    if entry.dtype.name == dtype.name and entry.dtype.block_elements == 1:
        raw = checkpoint.read_part(origin.tensor, 0, entry.size_bytes)
        elements = np.frombuffer(raw, f"V{entry.dtype.block_bytes}").reshape(entry.shape)
        return [elements[..., chosen].tobytes()]
    values = np.ascontiguousarray(checkpoint[origin.tensor][..., chosen])
    return [encode(next(checked([values], origin.tensor, dtype)), dtype)]


def weight_bytes(
    checkpoint: Checkpoint, report: ContractReport, name: str, dtype: DType
) -> Iterable[bytes | bytearray]:
    """The model's weight `name` in `dtype`: a tensor of the file as stored, or made of several."""
    if name not in report.readings:
        return tensor_bytes(checkpoint, Origin(report.weights[name]), dtype)
    return encode_parts(lambda: checked(weight_parts(checkpoint, report, name), name, dtype), dtype)


def weight_parts(checkpoint: Checkpoint, report: ContractReport, name: str) -> Iterator[Floats]:
    """The model's weight as flat float32 arrays in C order, at most PART_ELEMENTS long.

    Of a tensor that is stored as one whole, one part is read at a time.
    """
    if name not in report.readings:
        yield from value_parts(checkpoint, report.weights[name])
        return
    values = read_weight(checkpoint, report, name).reshape(-1)
    for start in range(0, values.size, PART_ELEMENTS):
        yield values[start : start + PART_ELEMENTS]


def not_stored(name: str, dtype: DType, peak: float) -> AprnbError:
    """The error for a stored tensor whose largest magnitude is `peak`, NaN or infinite ones included."""
    if not peak < np.inf:
        return ContractError(f"tensor {name} holds NaN or infinity", action="the weights are damaged")
    other = "bf16" if dtype.name == "F16" else "f32"
    return OutputError(
        f"tensor {name} has values beyond the range of {dtype.name} (up to {peak:.4g})", action=f"give --dtype {other}"
    )


def checked(
    parts: Iterable[Floats], name: str, dtype: DType, unstorable: Callable[[str, DType, float], AprnbError] = not_stored
) -> Iterator[Floats]:
    """The parts; raises `unstorable(name, dtype, peak)` before one that holds a value `dtype` cannot store."""
    for part in parts:
        peak = float(max(part.max(initial=0), -part.min(initial=0)))  # without a copy; NaN comes through
        if not peak <= LARGEST.get(dtype.name, LARGEST_FLOAT32):
            raise unstorable(name, dtype, peak)
        yield part


def silent(done: int, total: int) -> None:
    """The default progress: does nothing."""


class Counter:
    """Adds up bytes over all tensors and reports them to `progress`."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress
        progress(0, total)

    def over(self, parts: Iterable[bytes | bytearray]) -> Iterator[bytes | bytearray]:
        """The same parts, each reported."""
        for part in parts:
            yield part
            self._done += len(part)
            self._progress(self._done, self._total)


def quantised_again(count: int, total: int) -> tuple[str, ...]:
    """The warning about `count` tensors whose blocks are decoded and quantised a second time; none for 0."""
    return (f"{count} of {total} tensors are quantised a second time, which loses precision",) if count else ()
