"""`aprnb.convert`: opens and checks the source, and calls the writer of the target's format."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aprnb.architecture import ContractReport, check_contract, resolve
from aprnb.conversion.converted import Converted, Kind, Written
from aprnb.conversion.tensors import silent
from aprnb.dtype_names import TorchDtype
from aprnb.errors import UsageProblem
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.formats.contents import Progress
from aprnb.option_values import read_value
from aprnb.options import OPTIONS

Writer = Callable[[Path, Checkpoint, ContractReport, str | None, bool, Progress], Written]


def convert(
    source: str | os.PathLike[str] | Checkpoint,
    target: str | os.PathLike[str],
    *,
    dtype: str | TorchDtype | None = None,
    force: bool = False,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Convert a checkpoint to another format or dtype.

    Tensors are converted part by part. The result is written to a temporary file or folder and then renamed.

    Args:
        source: an `.apr`, GGUF or safetensors file, a Hugging Face folder, or an open `Checkpoint`.
        target: `X.apr`, `X.gguf` or `X.safetensors`; any other name is a Hugging Face folder.
        dtype: "f32", "f16", "bf16", each also as a `torch.dtype`, or "q8", "q4", "q4_k", "q6_k";
            unless given, tensors keep theirs where the target supports it.
        force: overwrite `target`.
        config: a `config.json` (path or dict) for fields that the source does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.
        progress: called with the bytes of tensors that are done, and those in all.

    Returns:
        The `Converted` with path, size, duration, and warnings about what the target does not keep.

    Raises:
        UsageProblem: an invalid target or dtype, or a target that cannot hold the model.
        FileMissing, CheckpointError: the source cannot be read.
        ArchitectureError, ContractError: the source does not determine a model, or its tensors do not match it.
        OutputExists: `target` exists, without `force`.
        OutputError: `target` cannot be written.

    Example:
        >>> result = aprnb.convert("pocket-qwen3.apr", "pocket-qwen3.gguf", dtype="f16")
        >>> result.format, result.tensors
        ('gguf', 35)
    """
    path = Path(target)
    kind = target_kind(path)
    wanted = None if dtype is None else read_value(OPTIONS["target_dtype"], dtype)
    began = time.perf_counter()
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    try:
        _require_apart(path, kind, checkpoint)
        given = config is not None or overrides
        architecture = resolve(checkpoint, config=config, overrides=overrides) if given else checkpoint.architecture
        report = check_contract(checkpoint, architecture).raise_for_violations()
        written = _writer(kind)(path, checkpoint, report, wanted, force, progress or silent)
    finally:
        if not isinstance(source, Checkpoint):
            checkpoint.close()
    notes = (*checkpoint.warnings, *report.architecture.warnings, *written.notes)
    seconds = time.perf_counter() - began
    return Converted(checkpoint.path, path, kind, written.tensors, _size(path), seconds, tuple(dict.fromkeys(notes)))


def _require_apart(path: Path, kind: Kind, checkpoint: Checkpoint) -> None:
    """Raises where the target is a file that is read, or a folder that contains one and would be replaced."""
    target = path.resolve()
    for read in (checkpoint.path, *(file.source.path for file in checkpoint.contents.files)):
        resolved = read.resolve()
        if target == resolved or (kind == "huggingface" and target in resolved.parents):
            raise UsageProblem(f"{path} would overwrite {read}, which is read", action="give the target another name")


def target_kind(path: Path) -> Kind:
    """The format that a target's name stands for; raises UsageProblem for an invalid name or an unsupported ending."""
    try:
        path.resolve().exists()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageProblem(f"{str(path)[:80]!r} is not a valid target name: {reason}") from None
    kinds: dict[str, Kind] = {".apr": "apr", ".gguf": "gguf", ".safetensors": "safetensors"}
    if path.suffix in (".bin", ".pt", ".pth", ".onnx", ".json", ".npz", ".h5"):
        raise UsageProblem(f"{path} cannot be written", expected=".apr, .gguf, .safetensors, or the name of a folder")
    return kinds.get(path.suffix, "huggingface")


def _writer(kind: Kind) -> Writer:
    """Imported here: some writers need packages that the others do without."""
    from aprnb.conversion import to_apr, to_gguf, to_huggingface

    return {
        "apr": to_apr.write,
        "gguf": to_gguf.write,
        "safetensors": to_huggingface.write_file,
        "huggingface": to_huggingface.write_folder,
    }[kind]


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)
