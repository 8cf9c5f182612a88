"""Writes complete `.apr` models: a checkpoint's tensors as stored, or its weights with some of them replaced.

One part of a tensor is in memory at a time; of a tensor that is split by columns, or made of others, the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aprnb.architecture import Architecture, ContractReport, check, expected_tensors
from aprnb.architecture.apr_names import apr_names, written_names
from aprnb.conversion.apr_metadata import model_metadata, stored_metadata
from aprnb.conversion.tensors import Counter, Origin, checked, silent, tensor_bytes, weight_parts
from aprnb.errors import OutputError
from aprnb.formats import Checkpoint, TensorSource, write_apr
from aprnb.formats.atomic import staged
from aprnb.formats.codecs import encode
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.contents import HEAD_NAME, Progress
from aprnb.formats.dtypes import DType

DtypeOf = Callable[[str, DType, tuple[int, ...]], DType]
"""Takes a tensor's name to write, its stored dtype and its shape; gives the dtype to write."""
Replace = Callable[[int, Floats], Floats]
"""Takes values of a weight, flat in C order, and the index of the first of them; gives those to write."""
Verify = Callable[[Path, frozenset[str]], None]
"""Takes the written file, before it is renamed, and the names of the weights whose bytes were changed."""


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """A tensor to write; `stored` is the dtype that it has in the source."""

    name: str
    stored: DType
    dtype: DType
    shape: tuple[int, ...]
    size_bytes: int
    parts: Callable[[], Iterable[bytes | bytearray]]


def write_apr_model(
    path: Path,
    checkpoint: Checkpoint,
    report: ContractReport,
    dtype_of: DtypeOf,
    *,
    replace: Mapping[str, Replace] | None = None,
    tokenizer: Any = None,
    force: bool = False,
    progress: Progress = silent,
    verify: Verify | None = None,
) -> tuple[ModelTensor, ...]:
    """Writes a temporary file, re-opens it, checks its contract, calls `verify`, then renames it to `path`.

    Without `replace`, the file's tensors are written in the file's own layout; those that keep their dtype are copied
    as they are. With `replace` (weight name → its new values), the model's weights are written in the model's layout;
    `tokenizer` (of transformers) goes into a model whose base has none. Raises OutputExists unless `force`,
    ContractError or OutputError for values that cannot be written; then nothing is left at `path`.
    """
    changed: set[str] = set()
    if replace is None:
        tensors = _stored_tensors(checkpoint, report, dtype_of)
        metadata = stored_metadata(checkpoint, report, path.stem, _shapes(tensors))
    else:
        tensors = _model_tensors(checkpoint, report, dtype_of, replace, changed)
        metadata = model_metadata(checkpoint, report, path.stem, _shapes(tensors), tokenizer)
    count = Counter(sum(tensor.size_bytes for tensor in tensors), progress)
    with staged(path, force) as temporary:
        write_apr(temporary, metadata, [_source(tensor, count) for tensor in tensors], force=True)
        _require_same_model(check(temporary).raise_for_violations().architecture, report.architecture)
        if verify is not None:
            verify(temporary, frozenset(changed))
    return tuple(tensors)


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


def _stored_tensors(checkpoint: Checkpoint, report: ContractReport, dtype_of: DtypeOf) -> list[ModelTensor]:
    origins = _origins(checkpoint, report)
    return [_stored_tensor(checkpoint, name, origin, dtype_of) for name, origin in origins.items()]


def _stored_tensor(checkpoint: Checkpoint, name: str, origin: Origin, dtype_of: DtypeOf) -> ModelTensor:
    entry, shape = checkpoint.tensors[origin.tensor], origin.shape(checkpoint)
    dtype = dtype_of(name, entry.dtype, shape)
    copied = entry.dtype.name == dtype.name and origin.parts == 1  # as stored: K-quants have two layouts
    size = entry.size_bytes if copied else dtype.sizes_bytes(shape)[0]
    return ModelTensor(name, entry.dtype, dtype, shape, size, lambda: tensor_bytes(checkpoint, origin, dtype))


def _origins(checkpoint: Checkpoint, report: ContractReport) -> dict[str, Origin]:
    """Name to write → where it comes from; a tied head becomes a copy of the embedding."""
    architecture, names = report.architecture, apr_names(checkpoint, report)
    origins = {
        written: Origin(name, part, len(names[name]))
        for name, entry in checkpoint.tensors.items()
        if not entry.is_tied_placeholder and name not in architecture.superseded
        for part, written in enumerate(names[name])
    }
    if architecture.tie_word_embeddings and HEAD_NAME not in origins:
        embedding = next(iter(expected_tensors(architecture)))  # every family's table begins with it
        origins[HEAD_NAME] = Origin(report.weights[embedding])
    return origins


def _model_tensors(
    checkpoint: Checkpoint,
    report: ContractReport,
    dtype_of: DtypeOf,
    replace: Mapping[str, Replace],
    changed: set[str],
) -> list[ModelTensor]:
    """The model's weights under names that readers of the format support, split where they need that, and a head."""
    tensors = []
    for name, expected in expected_tensors(report.architecture).items():
        stored = checkpoint.tensors[report.weights[name]].dtype
        dtype = dtype_of(name, stored, expected.shape)
        whole = partial(_weight_bytes, checkpoint, report, name, dtype, replace.get(name), changed)
        names = written_names(name, report.architecture.family)
        shape = (*expected.shape[:-1], expected.shape[-1] // len(names))
        for number, written in enumerate(names):
            parts = whole if len(names) == 1 else partial(_columns, whole, expected.shape, dtype, number, shape[-1])
            tensors.append(ModelTensor(written, stored, dtype, shape, dtype.sizes_bytes(shape)[0], parts))
    if report.architecture.tie_word_embeddings:  # every family's table begins with the embedding
        tensors.append(dataclasses.replace(tensors[0], name=HEAD_NAME))
    return tensors


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
