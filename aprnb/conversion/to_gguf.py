"""Any checkpoint to GGUF: llama.cpp's names, shapes, row order and keys; what GGUF has no words for is refused by name.

What was written about the architecture is read back from a skeleton before a weight is copied, so that a field which
GGUF cannot carry is an error and not a silent default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aprnb.architecture import Architecture, ContractReport, ExpectedTensor, expected_tensors, resolve
from aprnb.architecture.weights import read_weight
from aprnb.conversion.convert import Written
from aprnb.conversion.gguf_header import SLUGS, architecture_values, rope_tensors
from aprnb.conversion.gguf_tokenizer import tokenizer_values
from aprnb.conversion.tensors import checked
from aprnb.errors import ArchitectureError, MissingExtra, OutputError
from aprnb.formats import Checkpoint, TensorEntry, open
from aprnb.formats.atomic import failed_to_write
from aprnb.formats.codecs.decoding import decode
from aprnb.formats.codecs.encoding import encode
from aprnb.formats.dtypes import BY_NAME, F16, F32, GGML, DType
from aprnb.formats.gguf_values import GgufValue
from aprnb.formats.gguf_writer import GgufTensor, Progress, gguf_front, write_gguf_file

DTYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K")
"""What tensors can be converted to; whatever GGUF can hold is also copied as it is."""

_BY_GGUF_PACKAGE = ("Q8_0", "Q4_0")
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K": 15, "Q6_K": 18, "BF16": 32}
_PART_BYTES = 16 << 20
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class WrittenGguf:
    """What was written: `warnings` name what the file could not take as asked."""

    path: Path
    tensors: int
    size_bytes: int
    warnings: tuple[str, ...]


def write_gguf(
    path: Path,
    checkpoint: Checkpoint,
    report: ContractReport,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenGguf:
    """Writes the model as GGUF.

    `report` is the checkpoint's contract without violations; `metadata` carries name, tokenizer and chat template in
    `.apr` words (the checkpoint's own where not given). `dtype` is one of DTYPES in any case, None keeps each matrix's
    type where GGUF has it (else F16); vectors are F32, as llama.cpp wants them. Raises OutputError for what GGUF cannot
    express, TokenizerError, OutputExists; nothing is left at `path` unless it is complete.
    """
    report.raise_for_violations()
    architecture = report.architecture
    if architecture.model_type not in _FAMILIES:
        raise OutputError(
            f"{architecture.model_type} cannot be written as GGUF", expected=f"one of {', '.join(_FAMILIES)}"
        )
    described = checkpoint.metadata if metadata is None else metadata
    plans = [_plan(checkpoint, report, tensor, _wanted(dtype)) for tensor in expected_tensors(architecture).values()]
    values = architecture_values(architecture)
    values |= _general(described, [plan.tensor.dtype for plan in plans], checkpoint.path)
    values |= tokenizer_values(described, architecture.model_type, architecture.vocab_size)
    tensors = [plan.tensor for plan in plans] + rope_tensors(architecture)
    _require_expressed(values, tensors, architecture)
    size = write_gguf_file(path, values, tensors, force=force, progress=progress)
    return WrittenGguf(path, len(tensors), size, _warnings(plans, values))


@dataclass(frozen=True, slots=True)
class _Plan:
    tensor: GgufTensor
    instead_of: DType | None
    """The type that was asked for or stored, where another one was taken."""


def _wanted(dtype: str | None) -> DType | None:
    if dtype is None:
        return None
    name = dtype.upper()
    if name not in DTYPES:
        raise OutputError(f"dtype {dtype!r} is not written to GGUF", expected=", ".join(DTYPES).lower())
    return BY_NAME[name]


def _plan(checkpoint: Checkpoint, report: ContractReport, expected: ExpectedTensor, wanted: DType | None) -> _Plan:
    entry = checkpoint.tensors[report.weights[expected.name]]
    target, instead_of = _target(entry, expected.shape, wanted)
    name = expected.rule.gguf.format(layer=expected.layer)
    return _Plan(
        GgufTensor(name, target, expected.shape, lambda: _parts(checkpoint, report, expected, target)), instead_of
    )


def _target(entry: TensorEntry, shape: tuple[int, ...], wanted: DType | None) -> tuple[DType, DType | None]:
    if len(shape) < 2:
        return F32, None
    if wanted is not None:
        return (wanted, None) if shape[-1] % wanted.block_elements == 0 else (F16, wanted)
    flat = (
        entry.size_bytes == entry.dtype.flat_size_bytes(entry.elements) and shape[-1] % entry.dtype.block_elements == 0
    )
    return (entry.dtype, None) if entry.dtype in GGML.values() and flat else (F16, entry.dtype)


def _parts(
    checkpoint: Checkpoint, report: ContractReport, expected: ExpectedTensor, target: DType
) -> Iterator[bytes | bytearray]:
    """The tensor's bytes in GGUF's row order; copied or converted a few rows at a time where its rows stay in place."""
    architecture, name = report.architecture, expected.name
    entry = checkpoint.tensors[report.weights[name]]
    heads_field = expected.rule.rotated_heads if architecture.family.permutes_in_gguf else None
    heads = architecture[heads_field] if heads_field else None
    reading = report.readings.get(name)
    in_place = (reading is None and not heads) or (reading is not None and reading.only_permuted and bool(heads))
    if in_place and entry.dtype == target:
        for start in range(0, entry.size_bytes, _PART_BYTES):
            yield checkpoint.read_part(entry.name, start, min(_PART_BYTES, entry.size_bytes - start))
    elif in_place and len(entry.shape) == 2 and not entry.dtype.prefix_bytes:
        yield from _converted_rows(checkpoint, entry, target)
    elif entry.dtype == target and heads and entry.shape == expected.shape:
        raw = np.frombuffer(checkpoint.raw(entry.name), np.uint8).reshape(entry.shape[0], -1)
        yield permute(raw, heads).tobytes()
    else:
        values = read_weight(checkpoint, report, name)
        yield _encoded(permute(values, heads) if heads else values, name, target)


def _converted_rows(checkpoint: Checkpoint, entry: TensorEntry, target: DType) -> Iterator[bytes]:
    rows, columns = entry.shape
    row_bytes = entry.size_bytes // rows
    if row_bytes * rows != entry.size_bytes or entry.dtype.flat_size_bytes(columns) != row_bytes:
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


def _general(metadata: Mapping[str, Any], dtypes: list[DType], path: Path) -> dict[str, GgufValue]:
    """Name, licence and the like, and which type most of the matrices have."""
    given = metadata.get("name")
    values = {"general.name": GgufValue("string", given if isinstance(given, str) and given else path.stem)}
    for key in ("author", "description", "license"):
        if isinstance(metadata.get(key), str):
            values[f"general.{key}"] = GgufValue("string", metadata[key])
    commonest = max(dtypes, key=lambda dtype: sum(other == dtype for other in dtypes if other != F32))
    if commonest.name in _FILE_TYPES:
        values["general.file_type"] = GgufValue("uint32", _FILE_TYPES[commonest.name])
    if any(dtype.is_quantized for dtype in dtypes):
        values["general.quantization_version"] = GgufValue("uint32", 2)
    return values


def _require_expressed(values: Mapping[str, GgufValue], tensors: list[GgufTensor], architecture: Architecture) -> None:
    """Reads the architecture back from a file of holes with this front; raises for the fields that differ."""
    told = {key: value for key, value in values.items() if not key.startswith("tokenizer.")}
    with tempfile.TemporaryDirectory() as folder:
        skeleton = Path(folder) / "skeleton.gguf"
        _write_skeleton(skeleton, told, tensors)
        with open(skeleton) as checkpoint:
            try:
                found = resolve(checkpoint).fields()
            except ArchitectureError as error:
                raise OutputError(f"GGUF cannot express this {architecture.model_type}: {error.found}") from error
    meant = architecture.fields()
    if SLUGS[architecture.model_type] == SLUGS.get(found["model_type"]):
        found["model_type"] = architecture.model_type
    lost = [
        f"{name} {meant[name]} (read back as {found.get(name)})" for name in meant if found.get(name) != meant[name]
    ]
    if lost:
        raise OutputError(f"GGUF cannot express of this {architecture.model_type}: {'; '.join(lost)}")


def _write_skeleton(path: Path, values: Mapping[str, GgufValue], tensors: list[GgufTensor]) -> None:
    """The front and the RoPE factors of a GGUF file; weights are holes."""
    front = gguf_front(values, tensors)
    with path.open("wb") as file:
        file.write(front)
        offset = len(front)
        for tensor in tensors:
            if tensor.name.startswith("rope_"):
                file.seek(offset)
                file.writelines(tensor.parts())
            offset += -(-tensor.size_bytes // 32) * 32
        file.truncate(offset)


def _warnings(plans: list[_Plan], values: Mapping[str, GgufValue]) -> tuple[str, ...]:
    others = [plan for plan in plans if plan.instead_of is not None]
    warnings = []
    for missed in sorted({plan.instead_of.name for plan in others if plan.instead_of}):
        count = sum(plan.instead_of is not None and plan.instead_of.name == missed for plan in others)
        warnings.append(f"{count} of {len(plans)} tensors are F16 in place of {missed}, which cannot hold them in GGUF")
    if "tokenizer.ggml.tokens" not in values:
        warnings.append("the file carries no tokenizer: the checkpoint has none in its metadata")
    return tuple(warnings)


_WORDS = {"q8": "q8_0", "q4": "q4_0"}
"""`q8` and `q4` are `.apr` types; GGUF has its own of that size."""


def write(
    path: Path, checkpoint: Checkpoint, report: ContractReport, dtype: str | None, force: bool, progress: Progress
) -> Written:
    """What `convert` calls for a target that ends in .gguf."""
    wanted = _WORDS.get(dtype, dtype) if dtype else None
    try:
        written = write_gguf(path, checkpoint, report, dtype=wanted, force=force, progress=progress)
    except OSError as error:
        raise failed_to_write(path, error) from error
    return Written(written.tensors, written.warnings)
