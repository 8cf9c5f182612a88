"""Merging: base + adapter, or fully trained weights, into a complete `.apr` file.

Tensors stream from the base to the output part by part. W' = W + (alpha / rank) · B·A (Hu et al. 2021, section 4.1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from aprnb.architecture import ContractReport, check_contract, expected_tensors, resolve
from aprnb.conversion.apr_model import Replace, write_apr_model
from aprnb.errors import GateError, UsageProblem
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.dtypes import BY_NAME, DType
from aprnb.model.experts import from_module
from aprnb.option_values import read_value
from aprnb.options import OPTIONS
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tuning.results.adapter_files import Delta
from aprnb.tuning.results.base_content import require_same_model, require_same_tensors
from aprnb.tuning.results.merge_check import MergeCheck

Verify = Callable[[Path], MergeCheck | None]
_MOST_BYTES, _MOST_BYTES_PER_PARAMETER = 16 << 20, 8
"""Size limit of an adapter file: float32 matrices of the largest useful rank are twice as large as the weight."""
_OTHER_BASE = "the adapter was trained on another base"
_MERGE_ANYWAY = "merge it into the base that it was trained on, or add --other-base"


@dataclass(frozen=True)
class Merged:
    """A merged model; `str()` is one line that says what changed.

    Attributes:
        path: the written `.apr` file.
        tensors: how many it has.
        changed: how many differ from the base's.
        check: the comparison of its logits with those of base + adapter, where one was made.
    """

    path: Path
    tensors: int
    changed: int
    check: MergeCheck | None = None
    exit_code: ClassVar[int] = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.changed} of {self.tensors} tensors changed"

    def to_json(self) -> dict[str, Any]:
        """Output path and the numbers of tensors."""
        return {"output": str(self.path), "tensors": self.tensors, "changed": self.changed}


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
) -> Merged:
    """Merge a PEFT LoRA adapter into its base and write the result as one `.apr` model.

    W' = W + alpha / rank · B·A (Hu et al. 2021, section 4.1). The output is written to a temporary file, re-opened and
    compared with the architecture, then renamed.

    Args:
        base: an `.apr`, GGUF or safetensors file, or a Hugging Face folder.
        adapter: folder of a PEFT adapter, such as NAME.adapter/ of `aprnb.finetune`.
        output: the `.apr` file to write.
        output_dtype: "F32", "F16" or "BF16" or a `torch.dtype`, of matrices; unless given, tensors keep the base's
            dtype and quantised ones become F16.
        force: overwrite `output`.
        config: a `config.json` (path or dict) for fields that the base does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.
        chat_template: name or file of a template where the base has none.
        other_base: also merge an adapter that records another base than this one.
        verify: called with the temporary file before it is renamed; raises to reject it.

    Returns:
        The `Merged` with path, number of tensors, and how many differ from the base's.

    Raises:
        UsageProblem: an invalid option, or an adapter that does not fit the base or was trained on another one.
        FileMissing, CheckpointError: base or adapter cannot be read.
        ArchitectureError, ContractError, TokenizerError: the base is not a complete model.
        GateError: the merge changed no tensor.
        OutputExists: `output` exists, without `force`.
        OutputError: `output` cannot be written.

    Example:
        >>> run = aprnb.finetune("pocket-qwen3.apr", data="rows.jsonl", method="lora", max_steps=2, output="tuned.apr")
        >>> print(aprnb.merge("pocket-qwen3.apr", "tuned.adapter", "merged.apr"))
        merged.apr: 21 of 36 tensors changed
    """
    wanted = None if output_dtype is None else read_value(OPTIONS["output_dtype"], output_dtype)
    with open_checkpoint(base) as checkpoint:
        report = check_contract(
            checkpoint, resolve(checkpoint, config=config, overrides=overrides)
        ).raise_for_violations()
        delta = Delta(Path(adapter), _MOST_BYTES + _MOST_BYTES_PER_PARAMETER * report.parameters)
        delta.fit(report)
        _require_apart(Path(output), Path(base), Path(adapter))
        recorded = None if other_base else delta.base
        if recorded is not None:
            require_same_model(recorded, report, _OTHER_BASE, _MERGE_ANYWAY)
        choice = choose_tokenizer(checkpoint, report.architecture, chat_template)
        checkpoint.keep_hashes()

        def verified(path: Path) -> MergeCheck | None:
            if recorded is not None:
                present = checkpoint.content_hashes(recorded.tensors)
                require_same_tensors(recorded, present, checkpoint.path, _OTHER_BASE, _MERGE_ANYWAY)
            return verify(path) if verify else None

        columns = {name: tensor.shape[-1] for name, tensor in expected_tensors(report.architecture).items()}
        replace = {name: partial(_add, delta, name, columns[name]) for name in delta.names}
        return _write(checkpoint, report, replace, choice.tokenizer, Path(output), wanted, force, verified)


def _add(delta: Delta, name: str, columns: int, start: int, base: Floats) -> Floats:
    """The base's values from element `start` on, with the adapter's change of the rows that hold them."""
    first, last = start // columns, -(-(start + base.size) // columns)
    change = delta(name, slice(first, last)).reshape(-1)[start - first * columns :][: base.size]
    with np.errstate(over="ignore", invalid="ignore"):  # the writer rejects infinity and NaN
        return base + change


def _require_apart(output: Path, base: Path, adapter: Path) -> None:
    """Raises UsageProblem where the output is the base or in the adapter's folder."""
    target = output.absolute().parent.resolve() / output.name
    for read in (base.resolve(), adapter.resolve()):
        if target == read or read in target.parents:
            raise UsageProblem(f"{output} would overwrite {read}, an input of the merge", action="choose another name")


def write_trained(
    checkpoint: Checkpoint,
    report: ContractReport,
    weights: Mapping[str, Any],
    tokenizer: Any,
    output: Path,
    output_dtype: str | None,
    force: bool,
    verify: Verify,
) -> Merged:
    """Writes a fully trained module's `weights` (name → torch tensor) with everything else from the base."""

    def trained(name: str, start: int, base: Floats) -> Floats:
        values = from_module(weights, name).detach().reshape(-1)[start : start + base.size]
        part: Floats = values.float().cpu().numpy()
        return part

    replace = {name: partial(trained, name) for name in report.weights}
    return _write(checkpoint, report, replace, tokenizer, output, output_dtype, force, verify)


def _write(
    checkpoint: Checkpoint,
    report: ContractReport,
    replace: Mapping[str, Replace],
    tokenizer: Any,
    output: Path,
    output_dtype: str | None,
    force: bool,
    verify: Verify,
) -> Merged:
    compared: list[tuple[int, MergeCheck | None]] = []

    def verified(path: Path, changed: frozenset[str]) -> None:
        if not changed:
            raise GateError(
                "the merge changed no tensor: the changes are too small for the output dtype",
                action="train longer, or give --output-dtype F32",
            )
        compared.append((len(changed), verify(path)))

    def dtype_of(_: str, stored: DType, shape: tuple[int, ...]) -> DType:
        """The wanted dtype for matrices; else the stored float type, F16 in place of block quantisation."""
        if output_dtype:
            return BY_NAME[output_dtype] if len(shape) == 2 else BY_NAME["F32"]
        return stored if stored.is_float and stored.name != "F64" else BY_NAME["F16"]

    tensors = write_apr_model(
        output, checkpoint, report, dtype_of, replace=replace, tokenizer=tokenizer, force=force, verify=verified
    )
    ((changed, found),) = compared
    return Merged(output, len(tensors), changed, found)
