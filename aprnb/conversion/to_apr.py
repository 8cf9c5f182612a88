"""Any checkpoint as an `.apr`: the tensors as they lie (or in another type), true metadata, a head with bytes."""

from __future__ import annotations

from pathlib import Path

from aprnb.architecture import ContractReport, check
from aprnb.architecture.apr_names import apr_names
from aprnb.conversion.apr_metadata import apr_metadata
from aprnb.conversion.convert import Written
from aprnb.conversion.tensors import (
    TARGET_DTYPES,
    Counter,
    Origin,
    Progress,
    counted,
    quantised_again,
    target_dtype,
    tensor_bytes,
)
from aprnb.formats import Checkpoint, TensorSource, write_apr
from aprnb.formats.atomic import staged
from aprnb.formats.contents import HEAD_NAME
from aprnb.formats.dtypes import CODES, F32, DType

_EMBEDDINGS = ("model.embed_tokens.weight", "token_embd.weight", "transformer.wte.weight", "wte.weight")


def write(
    path: Path, checkpoint: Checkpoint, report: ContractReport, dtype: str | None, force: bool, progress: Progress
) -> Written:
    """Writes the file, opens it again and holds its contract before it takes its name."""
    wanted = TARGET_DTYPES[dtype] if dtype else None
    origins = _origins(checkpoint, report)
    dtypes = {name: _dtype(checkpoint, name, origin, wanted) for name, origin in origins.items()}
    shapes = {name: origin.shape(checkpoint) for name, origin in origins.items()}
    sizes = {name: _size(checkpoint, origin, dtypes[name]) for name, origin in origins.items()}
    count = Counter(sum(sizes.values()), progress)

    def source(name: str) -> TensorSource:
        return TensorSource(
            name,
            dtypes[name],
            shapes[name],
            lambda: counted(tensor_bytes(checkpoint, origins[name], dtypes[name]), count),
            sizes[name],
        )

    metadata = apr_metadata(checkpoint, report, path.stem, shapes)
    with staged(path, force) as beside:
        write_apr(beside, metadata, map(source, origins), force=True)
        check(beside).raise_for_violations()
    changed = [
        (stored, dtypes[name])
        for name, origin in origins.items()
        if (stored := checkpoint.tensors[origin.tensor].dtype).name != dtypes[name].name
    ]
    again = sum(stored.is_quantized and dtype.is_quantized for stored, dtype in changed)
    return Written(len(origins), (*_notes(dtypes, wanted), *quantised_again(again, len(origins))))


def _origins(checkpoint: Checkpoint, report: ContractReport) -> dict[str, Origin]:
    """Name to write → where it comes from; a tied head becomes a copy of the embedding."""
    architecture = report.architecture
    kept = [
        name
        for name, entry in checkpoint.tensors.items()
        if not entry.is_tied_placeholder and name not in architecture.superseded
    ]
    names = apr_names(checkpoint, report)
    origins = {
        written: Origin(name, part, len(names[name])) for name in kept for part, written in enumerate(names[name])
    }
    if architecture.tie_word_embeddings and HEAD_NAME not in origins:
        embedding = next((name for name in _EMBEDDINGS if name in checkpoint.tensors), None)
        if embedding is not None:
            origins[HEAD_NAME] = Origin(embedding)
    return origins


def _dtype(checkpoint: Checkpoint, name: str, origin: Origin, wanted: DType | None) -> DType:
    entry = checkpoint.tensors[origin.tensor]
    if wanted is not None:
        return target_dtype(name, entry.dtype, origin.shape(checkpoint), wanted)
    return entry.dtype if entry.dtype.name in CODES else F32


def _size(checkpoint: Checkpoint, origin: Origin, dtype: DType) -> int:
    """Bytes to write: as stored where the tensor is copied (K-quants have two layouts), else as encoded."""
    entry = checkpoint.tensors[origin.tensor]
    copied = entry.dtype.name == dtype.name and origin.parts == 1
    return entry.size_bytes if copied else dtype.sizes_bytes(origin.shape(checkpoint))[0]


def _notes(dtypes: dict[str, DType], wanted: DType | None) -> tuple[str, ...]:
    if wanted is None or wanted.is_float:
        return ()
    left = [name for name, dtype in dtypes.items() if dtype.name not in (wanted.name, "F32")]
    if not left:
        return ()
    why = f"their rows are not whole blocks of {wanted.block_elements}"
    return (f"{len(left)} matrices are not in {wanted.name}, first {left[0]}: {why}",)
