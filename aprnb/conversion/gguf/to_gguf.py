"""Any checkpoint to GGUF: llama.cpp's names, shapes, row order and keys; what GGUF cannot express is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aprnb.architecture import ContractReport
from aprnb.conversion.gguf.general import generation_values, identity_values
from aprnb.conversion.gguf.header import architecture_values, differences, rope_tensors
from aprnb.conversion.gguf.skeleton import require_expressed
from aprnb.conversion.gguf.tensors import PlannedTensor, Wanted, plan_tensors
from aprnb.conversion.gguf.types import FILE_TYPES
from aprnb.conversion.gguf.types import MIXES as MIXES_BY_NAME
from aprnb.conversion.plan import Prepared, TensorSize, Written, left_out_head, rounding_notes, tensor_size
from aprnb.conversion.tensors import quantised_again
from aprnb.dtype_names import MIXES, TARGETS
from aprnb.errors import OutputError
from aprnb.formats import Checkpoint
from aprnb.formats.atomic import failed_to_write
from aprnb.formats.contents import Progress
from aprnb.formats.dtypes import BY_NAME, F32
from aprnb.formats.gguf.provenance import requantized
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.gguf.writer import write_gguf_file
from aprnb.formats.huggingface.tokenizer_json import REST
from aprnb.printable import shown_name
from aprnb.tokenizer.end_tokens import checkpoint_end_ids
from aprnb.tokenizer.gguf.values import tokenizer_values

DTYPES = {dtype.short: dtype.gguf for dtype in (*TARGETS, *MIXES)}
"""The name in options → the type or mix that tensors are converted to; what GGUF can hold is also copied as it is."""


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
    plans = plan_tensors(checkpoint, report, _wanted(dtype))
    require_expressed(report.architecture, [plan.tensor for plan in plans])
    notes = _notes(report, plans, _sizes(report, plans), dtype)
    written = _write(path, checkpoint, report, plans, dtype, force, progress)
    return Written(written.tensors, (*notes, *written.notes))


def _write(
    path: Path,
    checkpoint: Checkpoint,
    report: ContractReport,
    plans: list[PlannedTensor],
    dtype: str | None,
    force: bool,
    progress: Progress | None,
) -> Written:
    architecture = report.architecture
    values = architecture_values(architecture)
    quantizes = any(plan.tensor.dtype.is_quantized and plan.tensor.dtype != plan.stored for plan in plans)
    metadata = requantized(checkpoint.metadata) if quantizes else checkpoint.metadata
    identity, notes = identity_values(metadata, checkpoint.path.stem)
    values |= identity | _file_types(checkpoint, plans, dtype)
    tokenizer = tokenizer_values(checkpoint.metadata, architecture.model_type, architecture.vocab_size)
    ends = checkpoint_end_ids(checkpoint, architecture.vocab_size)
    generation, lost = generation_values(checkpoint.metadata, tokenizer.values, ends)
    values |= tokenizer.values | generation
    tensors = [plan.tensor for plan in plans] + rope_tensors(architecture)
    write_gguf_file(path, values, tensors, force=force, progress=progress)
    absent = () if "tokenizer.ggml.tokens" in values else (_without_tokenizer(checkpoint.metadata),)
    return Written(len(tensors), (*absent, *tokenizer.warnings, *notes, *lost))


def _without_tokenizer(metadata: Mapping[str, Any]) -> str:
    rest = metadata.get(REST)
    model = rest.get("model") if isinstance(rest, Mapping) else None
    kind = model.get("type") if isinstance(model, Mapping) else None
    why = f"GGUF cannot express the source's, which is {shown_name(kind)}" if isinstance(kind, str) else None
    return f"the file has no tokenizer: {why or 'the source has none that GGUF can express'}"


def _wanted(dtype: str | None) -> Wanted:
    if dtype is None:
        return None
    name = dtype.upper()
    if name not in DTYPES.values():
        raise OutputError(f"dtype {dtype!r} cannot be written to GGUF", expected=", ".join(DTYPES.values()).lower())
    return MIXES_BY_NAME.get(name) or BY_NAME[name]


def _file_types(checkpoint: Checkpoint, plans: list[PlannedTensor], dtype: str | None) -> dict[str, GgufValue]:
    """The file type, where llama.cpp has a number for it, and the version of the quantised types."""
    number = _file_type(checkpoint, plans, dtype)
    values = {} if number is None else {"general.file_type": GgufValue("uint32", number)}
    if any(plan.tensor.dtype.is_quantized for plan in plans):
        values["general.quantization_version"] = GgufValue("uint32", 2)
    return values


def _file_type(checkpoint: Checkpoint, plans: list[PlannedTensor], dtype: str | None) -> int | None:
    """The type asked for; that which the source states, if all its matrices keep theirs; else that of most matrices."""
    if dtype is not None:
        return FILE_TYPES[dtype.upper()]
    stated = checkpoint.metadata.get("gguf.kv", {}).get("general.file_type", {}).get("v")
    if isinstance(stated, int) and all(plan.tensor.dtype in (plan.stored, F32) for plan in plans):
        return stated
    dtypes = [plan.tensor.dtype.name for plan in plans]
    commonest = max(dtypes, key=lambda name: sum(other == name for other in dtypes if other != "F32"))
    return FILE_TYPES.get(commonest)


def _notes(
    report: ContractReport, plans: list[PlannedTensor], sizes: Sequence[TensorSize], dtype: str | None
) -> tuple[str, ...]:
    """The warnings about tensors that are not of the type asked for, that are rounded, or quantised a second time.

    Also those about what llama.cpp computes otherwise.
    """
    replaced = [(plan.instead_of.name, plan.tensor.dtype.name) for plan in plans if plan.instead_of is not None]
    notes = tuple(
        f"{replaced.count((missed, found))} of {len(plans)} tensors are {found} in place of {missed}: their rows are "
        f"not whole blocks of {BY_NAME[missed].block_elements}"
        for missed, found in sorted(set(replaced))
    )
    again = quantised_again(sum(plan.again for plan in plans), len(plans))
    rounded = rounding_notes(sizes) if dtype is None else ()
    return (*notes, *rounded, *again, *differences(report.architecture))


def _sizes(report: ContractReport, plans: list[PlannedTensor]) -> tuple[TensorSize, ...]:
    return tuple(
        tensor_size(
            report.architecture.family, plan.tensor.name, plan.stored, plan.stored_bytes,
            plan.tensor.dtype, plan.tensor.size_bytes,
        )
        for plan in plans
    )  # fmt: skip


def prepare(checkpoint: Checkpoint, report: ContractReport, dtype: str | None) -> Prepared:
    """For targets that end in .gguf."""
    named = DTYPES[dtype] if dtype else None
    plans = plan_tensors(checkpoint, report, _wanted(named))
    sizes = _sizes(report, plans)

    def write(path: Path, force: bool, progress: Progress) -> Written:
        try:
            return _write(path, checkpoint, report, plans, named, force, progress)
        except OSError as error:
            raise failed_to_write(path, error) from error

    left_out = left_out_head(checkpoint, report)
    notes = _notes(report, plans, sizes, named)
    require = partial(require_expressed, report.architecture, [plan.tensor for plan in plans])
    return Prepared((*sizes, *left_out), notes, write, require)
