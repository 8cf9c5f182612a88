"""Any checkpoint to GGUF: llama.cpp's names, shapes, row order and keys; what GGUF cannot express is an error.

What was written about the architecture is read back from a skeleton before a weight is copied, so that a field which
GGUF cannot express is an error and not a silent default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.architecture import Architecture, ContractReport, resolve
from aprnb.conversion.converted import Written
from aprnb.conversion.gguf_header import architecture_values, rope_tensors
from aprnb.conversion.gguf_tensors import PlannedTensor, plan_tensors
from aprnb.conversion.tensors import quantised_again
from aprnb.dtype_names import TARGETS
from aprnb.errors import ArchitectureError, OutputError
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.formats.atomic import failed_to_write
from aprnb.formats.contents import Progress
from aprnb.formats.dtypes import BY_NAME, F32, DType
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.gguf.writer import GgufTensor, gguf_front, write_gguf_file
from aprnb.tokenizer.gguf_values import tokenizer_values

DTYPES = {dtype.short: dtype.gguf for dtype in TARGETS}
"""The name in options → the type that tensors are converted to; whatever GGUF can hold is also copied as it is."""

_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K": 15, "Q6_K": 18, "BF16": 32}


def write_gguf(
    path: Path,
    checkpoint: Checkpoint,
    report: ContractReport,
    *,
    dtype: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Writes the model as GGUF.

    `report` is the checkpoint's contract without violations. `dtype` is a type in DTYPES in any case, None keeps each
    matrix's type where GGUF has it (else F16); vectors are F32, which llama.cpp requires. Raises OutputError for what
    GGUF cannot express, TokenizerError, OutputExists; nothing is left at `path` unless it is complete.
    """
    report.raise_for_violations()
    architecture = report.architecture
    plans = plan_tensors(checkpoint, report, _wanted(dtype))
    values = architecture_values(architecture)
    values |= _general(checkpoint.metadata, [plan.tensor.dtype for plan in plans], checkpoint.path)
    values |= tokenizer_values(checkpoint.metadata, architecture.model_type, architecture.vocab_size)
    tensors = [plan.tensor for plan in plans] + rope_tensors(architecture)
    _require_expressed(values, tensors, architecture)
    write_gguf_file(path, values, tensors, force=force, progress=progress)
    return Written(len(tensors), _warnings(plans, values))


def _wanted(dtype: str | None) -> DType | None:
    if dtype is None:
        return None
    name = dtype.upper()
    if name not in DTYPES.values():
        raise OutputError(f"dtype {dtype!r} cannot be written to GGUF", expected=", ".join(DTYPES.values()).lower())
    return BY_NAME[name]


def _general(metadata: Mapping[str, Any], dtypes: list[DType], path: Path) -> dict[str, GgufValue]:
    """Name, licence and similar keys, and the type of most matrices."""
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
    """Reads the architecture back from a sparse file with this header; raises for the fields that differ."""
    header = {key: value for key, value in values.items() if not key.startswith("tokenizer.")}
    with tempfile.TemporaryDirectory() as folder:
        skeleton = Path(folder) / "skeleton.gguf"
        _write_skeleton(skeleton, header, tensors)
        with open_checkpoint(skeleton) as checkpoint:
            try:
                found = resolve(checkpoint)
            except ArchitectureError as error:
                raise OutputError(f"GGUF cannot express this {architecture.model_type}: {error.found}") from error
    meant = _comparable(architecture.fields())
    read = _comparable(found.fields())
    if architecture.family.gguf.slug == found.family.gguf.slug:  # a Mistral model is a llama in GGUF
        read["model_type"] = architecture.model_type
    lost = [f"{name} {meant[name]} (read back as {read.get(name)})" for name in meant if read.get(name) != meant[name]]
    if lost:
        raise OutputError(f"GGUF cannot express this {architecture.model_type}: {'; '.join(lost)}")


def _comparable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the earlier context length in one place: configs may repeat it inside `rope_scaling`."""
    scaling, key = fields.get("rope_scaling"), "original_max_position_embeddings"
    if not scaling or key not in fields or scaling.get(key) != fields[key]:
        return dict(fields)
    return {**fields, "rope_scaling": {name: value for name, value in scaling.items() if name != key}}


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


def _warnings(plans: list[PlannedTensor], values: Mapping[str, GgufValue]) -> tuple[str, ...]:
    others = [plan for plan in plans if plan.instead_of is not None]
    warnings = []
    for missed in sorted({plan.instead_of.name for plan in others if plan.instead_of}):
        count = sum(plan.instead_of is not None and plan.instead_of.name == missed for plan in others)
        warnings.append(f"{count} of {len(plans)} tensors are F16: GGUF cannot hold them as {missed}")
    warnings += quantised_again(sum(plan.again for plan in plans), len(plans))
    if "tokenizer.ggml.tokens" not in values:
        warnings.append("the file has no tokenizer: the source has none that GGUF can express")
    return tuple(warnings)


def write(
    path: Path, checkpoint: Checkpoint, report: ContractReport, dtype: str | None, force: bool, progress: Progress
) -> Written:
    """What `convert` calls for a target that ends in .gguf."""
    wanted = DTYPES[dtype] if dtype else None
    try:
        return write_gguf(path, checkpoint, report, dtype=wanted, force=force, progress=progress)
    except OSError as error:
        raise failed_to_write(path, error) from error
