"""`aprnb.convert`: opens and checks the source, plans the target, and calls the writer of its format."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aprnb.conversion.converted import Converted
from aprnb.conversion.plan import ConversionPlan, require_space
from aprnb.conversion.prepare import Request, planned, startable
from aprnb.conversion.target import written_size
from aprnb.conversion.tensors import silent
from aprnb.dtype_names import TorchDtype
from aprnb.formats import Checkpoint
from aprnb.formats.contents import Progress
from aprnb.option_values import for_target, read_value
from aprnb.options import OPTIONS


def convert(
    source: str | os.PathLike[str] | Checkpoint,
    target: str | os.PathLike[str],
    *,
    dtype: str | TorchDtype | None = None,
    base: str | os.PathLike[str] | None = None,
    other_base: bool = False,
    modelfile: bool = False,
    force: bool = False,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    on_plan: Callable[[ConversionPlan], None] | None = None,
) -> Converted:
    """Convert a checkpoint to another format or dtype.

    Tensors are converted part by part. The result is written to a temporary file or folder and then renamed.

    Args:
        source: an `.apr`, GGUF or safetensors file, a Hugging Face folder, or an open `Checkpoint`; with `base` the
            folder of a PEFT LoRA adapter.
        target: `X.apr`, `X.gguf` or `X.safetensors`; any other name is a Hugging Face folder.
        dtype: "f32", "f16", "bf16", each also as a `torch.dtype`, or "q8", "q4", "q4_k", "q6_k"; for GGUF also the
            mixes of `llama-quantize`: "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", and its names of q8 and q4, "q8_0" and
            "q4_0". Unless given, tensors keep theirs where the target supports it, and get the nearest that it has
            where not.
        base: the checkpoint on which the adapter `source` was trained, in any format: `target` is then a LoRA adapter
            for llama.cpp, to be used with the base as GGUF.
        other_base: also convert an adapter that records another base than this one.
        modelfile: also write `Modelfile` into the GGUF target's folder, for `ollama create NAME -f Modelfile`.
        force: overwrite `target`, and the Modelfile.
        config: a `config.json` (path or dict) for fields that the source does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.
        progress: called with the bytes of tensors that are done, and those in all.
        on_plan: called with the `ConversionPlan` before a byte is written.

    Returns:
        The `Converted` with path, size, duration, what became what, and warnings about what the target does not keep.

    Raises:
        UsageProblem: an invalid target or dtype, a target that cannot hold the model, or an adapter that does not fit
            the base or was trained on another one.
        FileMissing, CheckpointError: the source cannot be read.
        ArchitectureError, ContractError: the source does not determine a model, or its tensors do not match it.
        OutputExists: `target` exists, without `force`.
        OutputError: `target` cannot be written, or needs more disk space than is free.

    Example:
        >>> result = aprnb.convert("pocket-qwen3.apr", "pocket-qwen3.gguf", dtype="f16")
        >>> result.format, result.tensors
        ('gguf', 35)
    """
    began = time.perf_counter()
    request = _request(source, target, dtype, base, other_base, modelfile, config, overrides)
    with startable(request, force) as ready:
        plan = ready.plan
        (on_plan or _unannounced)(plan)
        require_space(plan)
        written = ready.prepared.write(plan.target, force, progress or silent)
    warnings = tuple(dict.fromkeys((*ready.notes, *plan.warnings, *written.notes)))
    size, seconds = written_size(plan.target), time.perf_counter() - began
    return Converted(
        plan.source, plan.target, plan.format, written.tensors, size, seconds, warnings, plan, ready.assumptions
    )


def plan_conversion(
    source: str | os.PathLike[str] | Checkpoint,
    target: str | os.PathLike[str],
    *,
    dtype: str | TorchDtype | None = None,
    base: str | os.PathLike[str] | None = None,
    other_base: bool = False,
    modelfile: bool = False,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ConversionPlan:
    """Show what `convert` with the same arguments would write: the size, and which types become which.

    Nothing is written. Of the tensors, only scales of quantised ones are read, to find equal types.

    Args:
        source: an `.apr`, GGUF or safetensors file, a Hugging Face folder, or an open `Checkpoint`.
        target: `X.apr`, `X.gguf` or `X.safetensors`; any other name is a Hugging Face folder.
        dtype: as in `convert`.
        base: as in `convert`.
        other_base: as in `convert`.
        modelfile: as in `convert`.
        config: a `config.json` (path or dict) for fields that the source does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.

    Returns:
        The `ConversionPlan` with sizes in bytes, by part of the model and type, and values of `dtype` that give less.

    Raises:
        UsageProblem: an invalid target or dtype.
        FileMissing, CheckpointError: the source cannot be read.
        ArchitectureError, ContractError: the source does not determine a model, or its tensors do not match it.
        OutputError: GGUF cannot express the architecture.

    Example:
        >>> plan = aprnb.plan_conversion("pocket-qwen3.apr", "pocket-qwen3.gguf", dtype="q8")
        >>> plan.size_bytes < plan.source_bytes
        True
    """
    with planned(_request(source, target, dtype, base, other_base, modelfile, config, overrides)) as ready:
        return ready.plan


def _request(
    source: str | os.PathLike[str] | Checkpoint,
    target: str | os.PathLike[str],
    dtype: str | TorchDtype | None,
    base: str | os.PathLike[str] | None,
    other_base: bool,
    modelfile: bool,
    config: str | os.PathLike[str] | Mapping[str, Any] | None,
    overrides: Mapping[str, Any] | None,
) -> Request:
    wanted = None if dtype is None else read_value(OPTIONS["target_dtype"], for_target(dtype, target))
    return Request(source, Path(target), wanted, base, other_base, modelfile, config, overrides)


def _unannounced(plan: ConversionPlan) -> None:
    """The default of `on_plan`: does nothing."""
