"""Any checkpoint as an `.apr`: the tensors as stored (or in another type), corrected metadata, a head with bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aprnb.architecture import ContractReport
from aprnb.conversion.apr_model import ModelTensor, write_apr_model
from aprnb.conversion.converted import Written
from aprnb.conversion.tensors import TARGET_DTYPES, quantised_again, target_dtype
from aprnb.formats import Checkpoint
from aprnb.formats.contents import Progress
from aprnb.formats.dtypes import CODES, F32, DType


def write(
    path: Path, checkpoint: Checkpoint, report: ContractReport, dtype: str | None, force: bool, progress: Progress
) -> Written:
    """The writer for targets that end in .apr."""
    wanted = TARGET_DTYPES[dtype] if dtype else None

    def dtype_of(name: str, stored: DType, shape: tuple[int, ...]) -> DType:
        if wanted is not None:
            return target_dtype(name, stored, shape, wanted)
        return stored if stored.name in CODES else F32

    tensors = write_apr_model(path, checkpoint, report, dtype_of, force=force, progress=progress)
    changed = [tensor for tensor in tensors if tensor.stored.name != tensor.dtype.name]
    again = sum(tensor.stored.is_quantized and tensor.dtype.is_quantized for tensor in changed)
    return Written(len(tensors), (*_notes(tensors, wanted), *quantised_again(again, len(tensors))))


def _notes(tensors: Sequence[ModelTensor], wanted: DType | None) -> tuple[str, ...]:
    if wanted is None or wanted.is_float:
        return ()
    left = [tensor.name for tensor in tensors if tensor.dtype.name not in (wanted.name, "F32")]
    if not left:
        return ()
    why = f"their rows are not whole blocks of {wanted.block_elements}"
    return (f"{len(left)} matrices are not in {wanted.name}, first {left[0]}: {why}",)
