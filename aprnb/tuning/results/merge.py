"""Merging: base + adapter, or fully trained weights, into a complete `.apr` file.

Tensors stream from the base to the output part by part. W' = W + (alpha / rank) · B·A (Hu et al. 2021, section 4.1).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aprnb.adapters import changes_of, read_adapter
from aprnb.adapters.base_content import expected_base, require_base
from aprnb.adapters.changes import why_zero
from aprnb.adapters.other_files import other_files
from aprnb.adapters.targets import target_notes
from aprnb.architecture import ContractReport, check_contract, resolve
from aprnb.architecture.experts import from_module
from aprnb.architecture.weights import read_weight
from aprnb.conversion.apr_model import Replace, write_apr_model
from aprnb.conversion.merge_places import require_merge_places
from aprnb.conversion.plan import ConversionPlan, require_space
from aprnb.conversion.target import require_apart
from aprnb.conversion.to_apr import merge_plan
from aprnb.errors import GateError, out_of_memory_in
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.dtypes import DType
from aprnb.option_values import read_value
from aprnb.options import OPTIONS
from aprnb.phases import Counted, OnPhase, Phase, silent
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tuning.results.history import WRITING_MODEL
from aprnb.tuning.results.merge_check import MergeCheck
from aprnb.tuning.results.merged import Merged
from aprnb.tuning.results.written_weights import compare_changes
from aprnb.tuning.written_files import written_dtype

Verify = Callable[[Path], MergeCheck | None]
_MOST_BYTES, _MOST_BYTES_PER_PARAMETER = 16 << 20, 8
"""Size limit of an adapter file: float32 matrices of the largest useful rank are twice as large as the weight."""


def merge(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    output_dtype: str | torch.dtype | None = None,
    force: bool = False,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    other_base: bool = False,
    verify: Verify | None = None,
    on_phase: OnPhase | None = None,
    on_plan: Callable[[ConversionPlan], object] | None = None,
) -> Merged:
    """Merge a PEFT LoRA adapter into its base and write the result as one `.apr` model.

    W' = W + alpha / rank · B·A (Hu et al. 2021, section 4.1); rsLoRA, DoRA, patterns of ranks and alphas, saved
    modules, biases and trained tokens as PEFT merges them. Any other variant is an error that names it. The output is
    written to a temporary file, re-opened, compared with the architecture and, weight by weight, with base + adapter,
    then renamed.

    Args:
        base: an `.apr`, GGUF or safetensors file, or a Hugging Face folder.
        adapter: folder of a PEFT adapter, such as NAME.adapter/ of `aprnb.finetune`.
        output: the `.apr` file to write.
        output_dtype: "F32", "F16" or "BF16" or a `torch.dtype`, of matrices; unless given, tensors keep the base's
            dtype, and quantised, 8-bit and F64 ones become F16.
        force: overwrite `output`.
        config: a `config.json` (path or dict) for fields that the base does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.
        chat_template: name or file of a template where the base has none.
        other_base: also merge an adapter that records another base than this one.
        verify: called with the temporary file before it is renamed; raises to reject it.
        on_phase: called about twice a second with a `Phase`, what is done now: "writing the model 40/291".
        on_plan: called with a `ConversionPlan` before a byte is written: the size, and which types become which.

    Returns:
        The `Merged` with path, number of tensors, how many differ from the base's, and warnings.

    Raises:
        UsageProblem: an invalid option, or an adapter that does not fit the base or was trained on another one.
        FileMissing, CheckpointError: base or adapter cannot be read.
        ArchitectureError, ContractError, TokenizerError: the base is not a complete model.
        GateError: the merge changed no tensor, or the written weights are not base + adapter.
        OutputExists: `output` exists, without `force`.
        OutputError: `output` cannot be written.
        OutOfMemory: there is no room for the largest tensor.

    Example:
        >>> run = aprnb.finetune("pocket-qwen3.apr", data="rows.jsonl", method="lora", max_steps=2, output="tuned.apr")
        >>> print(aprnb.merge("pocket-qwen3.apr", "tuned.adapter", "merged.apr"))
        merged.apr: 21 of 36 tensors changed
    """
    wanted = None if output_dtype is None else read_value(OPTIONS["output_dtype"], output_dtype)
    require_merge_places(base, adapter, output, force)
    enough = out_of_memory_in("during the merge", "end other programs, or merge on a machine with more memory")
    tell = on_phase or silent
    with enough, open_checkpoint(base) as checkpoint:
        require_apart(Path(output), checkpoint, Path(adapter))
        report = check_contract(
            checkpoint, resolve(checkpoint, config=config, overrides=overrides)
        ).raise_for_violations()
        tell(Phase("reading the adapter"))
        files = read_adapter(Path(adapter), _MOST_BYTES + _MOST_BYTES_PER_PARAMETER * report.parameters)
        replace = changes_of(files, report, partial(read_weight, checkpoint, report))
        if zero := why_zero(replace):
            raise GateError(
                f"the merge changed no tensor: the adapter is zero ({zero})", action="train it, or use its base"
            )
        recorded = expected_base(Path(adapter), report, other_base)
        choice = choose_tokenizer(checkpoint, report.architecture, chat_template)
        plan = merge_plan(checkpoint, report, Path(output), partial(_dtype_of, wanted))
        if on_plan:
            on_plan(plan)
        if verify is None:  # a run says itself what is left to do on a full disk
            require_space(plan)
        checkpoint.keep_hashes()

        def verified(path: Path) -> MergeCheck | None:
            require_base(recorded, checkpoint)
            if verify:
                return verify(path)
            compare_changes(files, replace, checkpoint, report, path, tell)
            return None

        merged = _write(checkpoint, report, replace, choice.tokenizer, Path(output), wanted, force, verified, tell)
        warned = (*checkpoint.warnings, *report.architecture.warnings, *report.architecture.left_out)
        notes = (*target_notes(files, report, replace), *other_files(Path(adapter), checkpoint.metadata))
        return dataclasses.replace(merged, warnings=(*warned, *notes))


def write_trained(
    checkpoint: Checkpoint,
    report: ContractReport,
    weights: Mapping[str, Any],
    tokenizer: Any,
    output: Path,
    output_dtype: str | None,
    force: bool,
    verify: Verify,
    on_phase: OnPhase = silent,
) -> Merged:
    """Writes a fully trained module's `weights` (name → torch tensor) with everything else from the base."""

    def trained(name: str, start: int, base: Floats) -> Floats:
        values = from_module(weights, name).detach().reshape(-1)[start : start + base.size]
        part: Floats = values.float().cpu().numpy()
        return part

    replace = {name: partial(trained, name) for name in report.weights}
    return _write(checkpoint, report, replace, tokenizer, output, output_dtype, force, verify, on_phase)


def _write(
    checkpoint: Checkpoint,
    report: ContractReport,
    replace: Mapping[str, Replace],
    tokenizer: Any,
    output: Path,
    output_dtype: str | None,
    force: bool,
    verify: Verify,
    on_phase: OnPhase,
) -> Merged:
    compared: list[tuple[int, MergeCheck | None]] = []

    def verified(path: Path, changed: frozenset[str]) -> None:
        if not changed:
            raise _unchanged(
                {
                    _dtype_of(output_dtype, name, checkpoint.tensors[report.weights[name]].dtype, (1, 1))
                    for name in replace
                }
            )
        compared.append((len(changed), verify(path)))

    tensors = write_apr_model(
        output,
        checkpoint,
        report,
        partial(_dtype_of, output_dtype),
        replace=replace,
        tokenizer=tokenizer,
        force=force,
        verify=verified,
        on_tensor=Counted(on_phase, WRITING_MODEL, len(report.weights)),
    )
    ((changed, found),) = compared
    return Merged(output, len(tensors), changed, found)


def _dtype_of(output_dtype: str | None, _: str, stored: DType, shape: tuple[int, ...]) -> DType:
    return written_dtype(stored, len(shape), output_dtype)


def _unchanged(dtypes: Collection[DType]) -> GateError:
    """The error of a merge in these dtypes whose bytes are the base's; wider ones may show a small change."""
    wide = all(dtype.name == "F32" for dtype in dtypes)
    kind = "zero, or too small for F32" if wide else "too small for the output dtype"
    action = "train longer" if wide else "train longer, or give --output-dtype F32"
    return GateError(f"the merge changed no tensor: the changes are {kind}", action=action)
