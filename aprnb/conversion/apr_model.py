"""Writes complete `.apr` models: a checkpoint's tensors as stored, or its weights with some of them replaced.

A tied head is written as the tool writes it: with its shape and without bytes.

One part of a tensor is in memory at a time; of a tensor that is split by columns, or made of others, the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aprnb.architecture import Architecture, ContractReport, check, expected_tensors
from aprnb.architecture.apr_names import apr_names, written_names
from aprnb.conversion.apr_metadata import model_metadata, stored_metadata
from aprnb.conversion.equal_types import equal_parts, is_equal_type
from aprnb.conversion.tensors import (
    Counter,
    Origin,
    checked,
    is_tied_head,
    nearest_dtype,
    silent,
    tensor_bytes,
    weight_parts,
)  # fmt: skip
from aprnb.errors import OutputError
from aprnb.formats import Checkpoint, TensorSource, open_checkpoint, write_apr
from aprnb.formats.atomic import staged
from aprnb.formats.codecs import encode
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.contents import HEAD_NAME, Progress
from aprnb.formats.dtypes import F32, DType
from aprnb.formats.gguf.provenance import requantized

DtypeOf = Callable[[str, DType, tuple[int, ...]], DType | None]
"""Takes a tensor's name to write, its stored dtype and its shape; gives the dtype to write, None for the nearest."""
Replace = Callable[[int, Floats], Floats]
"""Takes values of a weight, flat in C order, and the index of the first of them; gives those to write."""
Verify = Callable[[Path, frozenset[str]], None]
"""Takes the written file, before it is renamed, and the names of the weights whose bytes were changed."""


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """A tensor to write; `stored` is the dtype that it has in the source, where it takes `stored_bytes`.

    `again`: blocks are decoded and quantised a second time.
    """

    name: str
    stored: DType
    stored_bytes: int
    dtype: DType
    shape: tuple[int, ...]
    size_bytes: int
    again: bool
    parts: Callable[[], Iterable[bytes | bytearray]]


def write_stored(
    path: Path,
    checkpoint: Checkpoint,
    report: ContractReport,
    tensors: Sequence[ModelTensor],
    force: bool,
    progress: Progress,
) -> None:
    """Writes the file's own `stored_tensors`, as `write_apr_model` does."""
    metadata = stored_metadata(checkpoint, report, path.stem, _shapes(tensors))
    if any(tensor.dtype.is_quantized and tensor.dtype.name != tensor.stored.name for tensor in tensors):
        metadata = requantized(metadata)
    _write(path, metadata, tensors, report, force, progress, lambda _: None)


def write_apr_model(
    path: Path,
    checkpoint: Checkpoint,
    report: ContractReport,
    dtype_of: DtypeOf,
    *,
    replace: Mapping[str, Replace],
    verify: Verify,
    tokenizer: Any = None,
    force: bool = False,
    on_tensor: Callable[[], object] = lambda: None,
) -> tuple[ModelTensor, ...]:
    """Writes a temporary file, re-opens it, checks its contract, calls `verify`, then renames it to `path`.

    The model's weights are written in the model's own layout, with new values for those in `replace`; `tokenizer` (of
    transformers) goes into a model whose base has none; `on_tensor` is called after each tensor. Raises OutputExists
    unless `force`, ContractError or OutputError for values that cannot be written; then nothing is left at `path`.
    """
    changed: set[str] = set()
    tensors = model_tensors(checkpoint, report, dtype_of, replace, changed)
    metadata = model_metadata(checkpoint, report, path.stem, _shapes(tensors), tokenizer)
    counted = [dataclasses.replace(tensor, parts=partial(_counted, tensor.parts, on_tensor)) for tensor in tensors]
    _write(path, metadata, counted, report, force, silent, lambda written: verify(written, frozenset(changed)))
    return tuple(tensors)


def _counted(
    parts: Callable[[], Iterable[bytes | bytearray]], on_tensor: Callable[[], object]
) -> Iterator[bytes | bytearray]:
    yield from parts()
    on_tensor()


def _write(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[ModelTensor],
    report: ContractReport,
    force: bool,
    progress: Progress,
    verify: Callable[[Path], None],
) -> None:
    count = Counter(sum(tensor.size_bytes for tensor in tensors), progress)
    with staged(path, force) as temporary:
        write_apr(temporary, metadata, [_source(tensor, count) for tensor in tensors], force=True)
        with open_checkpoint(temporary) as written:
            _require_same_model(check(written).raise_for_violations().architecture, report.architecture)
        verify(temporary)


def _shapes(tensors: Iterable[ModelTensor]) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in tensors}


def _require_same_model(written: Architecture, expected: Architecture) -> None:
    """Raises OutputError where the written file states another architecture than the source's."""
    found = written.fields()
    lost = [
        f"{name} {value} (read back as {found.get(name)})"
        for name, value in expected.fields().items()
        if found.get(name) != value
    ]
    if lost:
        raise OutputError(f"the metadata cannot express this {expected.model_type}: {'; '.join(lost)}")


def _source(tensor: ModelTensor, count: Counter) -> TensorSource:
    return TensorSource(tensor.name, tensor.dtype, tensor.shape, lambda: count.over(tensor.parts()), tensor.size_bytes)


def stored_tensors(checkpoint: Checkpoint, report: ContractReport, dtype_of: DtypeOf) -> tuple[ModelTensor, ...]:
    """The file's tensors in the file's own layout; those that keep their dtype are copied as they are."""
    origins = _origins(checkpoint, report)
    tensors = [_stored_tensor(checkpoint, name, origin, dtype_of) for name, origin in origins.items()]
    return (*tensors, *_tied_head(checkpoint, report))


def _stored_tensor(checkpoint: Checkpoint, name: str, origin: Origin, dtype_of: DtypeOf) -> ModelTensor:
    entry, shape = checkpoint.tensors[origin.tensor], origin.shape(checkpoint)
    whole = origin.parts == 1
    dtype = dtype_of(name, entry.dtype, shape) or nearest_dtype(checkpoint, entry)
    copied = whole and entry.dtype.name == dtype.name  # as stored: K-quants have two layouts
    size = entry.size_bytes if copied else dtype.sizes_bytes(shape)[0]
    equal = whole and is_equal_type(checkpoint, entry, dtype)
    again = entry.dtype.is_quantized and dtype.is_quantized and not (copied or equal)

    def parts() -> Iterable[bytes | bytearray]:
        return equal_parts(checkpoint, entry) if equal else tensor_bytes(checkpoint, origin, dtype)

    stored_bytes = entry.size_bytes // origin.parts
    return ModelTensor(name, entry.dtype, stored_bytes, dtype, shape, size, again, parts)


def _origins(checkpoint: Checkpoint, report: ContractReport) -> dict[str, Origin]:
    """Name to write → where it comes from, without a head that is the embedding."""
    architecture, names = report.architecture, apr_names(checkpoint, report)
    return {
        written: Origin(name, part, len(names[name]))
        for name in checkpoint.tensors
        if name not in architecture.superseded and not is_tied_head(name, architecture)
        for part, written in enumerate(names[name])
    }


def _tied_head(checkpoint: Checkpoint, report: ContractReport) -> list[ModelTensor]:
    """A tied head as the tool writes it: the embedding's shape and no bytes."""
    if not report.architecture.tie_word_embeddings:
        return []
    copies = [entry for name, entry in checkpoint.tensors.items() if is_tied_head(name, report.architecture)]
    stored = copies[0].dtype if copies else F32
    shape = next(iter(expected_tensors(report.architecture).values())).shape  # every family's table begins with it
    return [ModelTensor(HEAD_NAME, stored, sum(e.size_bytes for e in copies), F32, shape, 0, False, lambda: ())]


def model_tensors(
    checkpoint: Checkpoint,
    report: ContractReport,
    dtype_of: DtypeOf,
    replace: Mapping[str, Replace],
    changed: set[str],
) -> list[ModelTensor]:
    """The model's weights under names that readers of the format support, split where they need that, and a head."""
    tensors = []
    for name, expected in expected_tensors(report.architecture).items():
        entry = checkpoint.tensors[report.weights[name]]
        stored = entry.dtype
        dtype = dtype_of(name, stored, expected.shape) or stored
        whole = partial(_weight_bytes, checkpoint, report, name, dtype, replace.get(name), changed)
        names = written_names(name, report.architecture.family)
        shape = (*expected.shape[:-1], expected.shape[-1] // len(names))
        for number, written in enumerate(names):
            parts = whole if len(names) == 1 else partial(_columns, whole, expected.shape, dtype, number, shape[-1])
            size, before = dtype.sizes_bytes(shape)[0], entry.size_bytes // len(names)
            tensors.append(ModelTensor(written, stored, before, dtype, shape, size, False, parts))
    return [*tensors, *_tied_head(checkpoint, report)]


def _weight_bytes(
    checkpoint: Checkpoint, report: ContractReport, name: str, dtype: DType, new: Replace | None, changed: set[str]
) -> Iterator[bytes]:
    """The weight in a float type, part by part; its name goes into `changed` where the bytes differ from the base's."""
    start = 0
    for base in weight_parts(checkpoint, report, name):
        (values,) = checked((base if new is None else new(start, base),), name, dtype, _unstorable)
        start += base.size
        data = encode(values, dtype)
        if new is not None and name not in changed and data != encode(base, dtype):
            changed.add(name)
        yield data


def _columns(
    parts: Callable[[], Iterator[bytes]], shape: tuple[int, ...], dtype: DType, number: int, width: int
) -> Iterator[bytes]:
    """Columns `number` · `width` to the next of a tensor of `shape` in a float type."""
    elements = np.frombuffer(b"".join(parts()), f"V{dtype.block_bytes}").reshape(shape)
    yield elements[..., number * width : (number + 1) * width].tobytes()


def _unstorable(name: str, dtype: DType, peak: float) -> OutputError:
    if not peak < np.inf:
        return OutputError(f"{name} would contain NaN or infinity", action="the adapter or the base is damaged")
    wider = "BF16 or F32" if dtype.name == "F16" else "F32"
    return OutputError(f"{name} has values beyond the range of {dtype.name}", action=f"give --output-dtype {wider}")
