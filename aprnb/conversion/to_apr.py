"""Any checkpoint as an `.apr`: tensors as stored or in another type, corrected metadata, no bytes of a tied head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aprnb.architecture import ContractReport
from aprnb.conversion.apr_model import DtypeOf, ModelTensor, model_tensors, stored_tensors, write_stored
from aprnb.conversion.plan import (
    TIED,
    ConversionPlan,
    Prepared,
    TensorSize,
    Written,
    rounding_notes,
    size_rows,
    tensor_size,
)
from aprnb.conversion.tensors import TARGET_DTYPES, quantised_again, target_dtype
from aprnb.dtype_names import MIXES
from aprnb.errors import UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.contents import Progress
from aprnb.formats.dtypes import APR_Q8, CODES, DType
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.facts import has_tokenizer


def prepare(checkpoint: Checkpoint, report: ContractReport, dtype: str | None) -> Prepared:
    """For targets that end in .apr."""
    if dtype in {mix.short for mix in MIXES}:
        raise UsageProblem(
            f"--dtype {dtype} is a mix of GGUF types, which .apr does not have",
            expected=", ".join(TARGET_DTYPES),
            action="give --dtype q4_k or q6_k, or write a .gguf file",
        )
    wanted = TARGET_DTYPES[dtype] if dtype else None

    def dtype_of(name: str, stored: DType, shape: tuple[int, ...]) -> DType | None:
        if wanted is not None:
            return target_dtype(name, shape, wanted)
        return stored if stored.name in CODES else None

    tensors = stored_tensors(checkpoint, report, dtype_of)
    sizes = tuple(_size(report, tensor) for tensor in tensors)

    def write(path: Path, force: bool, progress: Progress) -> Written:
        write_stored(path, checkpoint, report, tensors, force, progress)
        return Written(len(tensors))

    rounded = rounding_notes(sizes) if wanted is None else ()
    again = quantised_again(sum(tensor.again for tensor in tensors), len(tensors))
    return Prepared(sizes, (*_notes(tensors, wanted), *rounded, *again, *_tokenizer_notes(checkpoint, report)), write)


def merge_plan(checkpoint: Checkpoint, report: ContractReport, output: Path, dtype_of: DtypeOf) -> ConversionPlan:
    """What a merge will write: the model's weights, whatever their new values."""
    sizes = (_size(report, tensor) for tensor in model_tensors(checkpoint, report, dtype_of, {}, set()))
    return ConversionPlan(checkpoint.path, output, "apr", size_rows(sizes))


def _tokenizer_notes(checkpoint: Checkpoint, report: ContractReport) -> tuple[str, ...]:
    """What keeps the file's own tokenizer from being used, such as a pre-tokenizer that is not known."""
    if not has_tokenizer(checkpoint.metadata):
        return ()
    problem = describe_tokenizer(checkpoint.metadata, report.architecture.model_type)["problem"]
    return (f"the tokenizer is kept as it is, and cannot be used here: {problem}",) if problem else ()


def _size(report: ContractReport, tensor: ModelTensor) -> TensorSize:
    family = report.architecture.family
    if not tensor.size_bytes:
        return TensorSize("head", tensor.stored.name if tensor.stored_bytes else TIED, TIED, tensor.stored_bytes, 0)
    return tensor_size(family, tensor.name, tensor.stored, tensor.stored_bytes, tensor.dtype, tensor.size_bytes)


def _notes(tensors: Sequence[ModelTensor], wanted: DType | None) -> tuple[str, ...]:
    if wanted is None or wanted.is_float:
        return ()
    left = [tensor.name for tensor in tensors if tensor.dtype.name not in (wanted.name, "F32")]
    if not left:
        return ()
    why = f"their rows are not whole blocks of {wanted.block_elements}"
    return (f"{len(left)} matrices are {APR_Q8.name} in place of {wanted.name}, first {left[0]}: {why}",)
