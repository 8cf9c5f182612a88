"""`aprnb.inspect`: reads a checkpoint's header, metadata and index and reports what they say; no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.adapters import is_adapter_folder
from aprnb.architecture import Architecture, check_contract, resolve
from aprnb.errors import ArchitectureError, UnsupportedFormat
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.inspection.adapter import AdapterReport, report_of_file, report_of_folder
from aprnb.inspection.report import Report
from aprnb.inspection.statistics import tensor_statistics
from aprnb.inspection.unsupported import UnsupportedReport
from aprnb.phases import OnPhase, Phase, silent
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.tokenizer_files import find_tokenizer_files


def inspect(
    path: str | os.PathLike[str] | Checkpoint,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    verify: bool = False,
    strict: bool = False,
    stats: bool = False,
    on_phase: OnPhase | None = None,
) -> Report | AdapterReport | UnsupportedReport:
    """Report what a checkpoint contains, and compare its tensors with its architecture; needs no torch.

    Args:
        path: a checkpoint file, a Hugging Face folder, or an open `Checkpoint`.
        config: a `config.json` (path or dict) for fields that the file does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.
        verify: also check the footer checksum of an `.apr` file, for which the whole file is read.
        strict: raise CheckpointError for any warning.
        stats: also decode every tensor: range, mean, standard deviation, zeros, NaN and infinite values.
        on_phase: called about twice a second with a `Phase`, what is done now.

    Returns:
        The `Report`, also where the architecture cannot be resolved (`report.failure` says why); an `AdapterReport`
        for a LoRA adapter, and an `UnsupportedReport` for a container that is recognised and not supported.

    Raises:
        UsageProblem: `config` or `overrides` are not valid.
        FileMissing: nothing is at `path`, or no config is at `config`.
        CheckpointError: the file is malformed.

    Example:
        >>> report = aprnb.inspect("pocket-qwen3.apr")
        >>> report.ok, report.architecture.model_type, report.parameters["unique"]
        (True, 'qwen3', 869632)
    """
    if not isinstance(path, Checkpoint) and is_adapter_folder(Path(path)):
        return report_of_folder(Path(path))
    if verify and on_phase:
        on_phase(Phase("reading the whole file"))
    try:
        checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path, verify=verify, strict=strict)
    except UnsupportedFormat as error:
        if not error.facts:
            raise
        return report_of_file(Path(str(path)), error) or UnsupportedReport(Path(str(path)), error)
    architecture, contract, failure = None, None, None
    try:
        architecture = resolve(checkpoint, config=config, overrides=overrides)
        contract = check_contract(checkpoint, architecture)
    except ArchitectureError as error:
        failure = error
    values = tensor_statistics(checkpoint, on_phase=on_phase or silent) if stats else None
    report = Report(checkpoint, architecture, failure, contract, _tokenizer(checkpoint, architecture), values)
    if strict:
        checkpoint.reject_warnings(report.warnings)
    return report


def _tokenizer(checkpoint: Checkpoint, architecture: Architecture | None) -> Mapping[str, Any]:
    stated = architecture.model_type if architecture else checkpoint.metadata.get("architecture")
    name = stated if isinstance(stated, str) else "unknown"
    return describe_tokenizer(checkpoint.metadata, name, find_tokenizer_files(checkpoint.path))
