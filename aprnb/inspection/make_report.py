"""`aprnb.inspect`: reads a checkpoint's header, metadata and index and reports what they say; no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.architecture import Architecture, check_contract, resolve
from aprnb.errors import ArchitectureError, UnsupportedFormat
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.inspection.report import Report
from aprnb.inspection.statistics import tensor_statistics
from aprnb.inspection.unsupported import UnsupportedReport
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.tokenizer_files import find_tokenizer_files


def inspect(
    path: str | os.PathLike[str] | Checkpoint,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    verify: bool = False,
    strict: bool = False,
    stats: bool = False,
) -> Report | UnsupportedReport:
    """Read header, metadata and index, resolve the architecture and check the tensors against it; no torch.

    A file of an unsupported family is reported too, with the reason; so is the header of a container that cannot be
    opened. `verify` also checks the footer checksum, `strict` makes every warning an error, `stats` decodes every
    tensor and examines its values. Raises FileMissing or CheckpointError for a file that does not open.
    """
    try:
        checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(path, verify=verify, strict=strict)
    except UnsupportedFormat as error:
        if not error.facts:
            raise
        return UnsupportedReport(Path(str(path)), error)
    architecture, contract, refusal = None, None, None
    try:
        architecture = resolve(checkpoint, config=config, overrides=overrides)
        contract = check_contract(checkpoint, architecture)
    except ArchitectureError as error:
        refusal = error
    values = tensor_statistics(checkpoint) if stats else None
    report = Report(checkpoint, architecture, refusal, contract, _tokenizer(checkpoint, architecture), values)
    if strict:
        checkpoint.refuse_warnings(report.warnings)
    return report


def _tokenizer(checkpoint: Checkpoint, architecture: Architecture | None) -> Mapping[str, Any]:
    stated = architecture.model_type if architecture else checkpoint.metadata.get("architecture")
    name = stated if isinstance(stated, str) else "unknown"
    return describe_tokenizer(checkpoint.metadata, name, find_tokenizer_files(checkpoint.path))
