"""The content of a base: its architecture and a hash of each tensor, taken while it is loaded.

Stored with the run and with the adapter when training starts, and compared when a run is resumed or an adapter merged:
a base that was changed in between, in any format, is detected before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.adapters.files import RECORD_NAME, adapter_file
from aprnb.architecture import ContractReport
from aprnb.architecture.weights import file_tensors
from aprnb.errors import CheckpointError, UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.json_files import read_object

MAX_RECORD_BYTES = 64 << 20
_OTHER_BASE = "the adapter was trained on another base"
_USE_ANYWAY = "use the base that it was trained on, or add --other-base"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BaseContent:
    """`tensors`: the file's name of each tensor that makes a weight → SHA-256 of its bytes, in hexadecimal."""

    architecture: Mapping[str, Any]
    tensors: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One SHA-256 over all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The document of `base.json`."""
        return {"architecture": dict(self.architecture), "tensors": dict(self.tensors)}


def base_content(checkpoint: Checkpoint, report: ContractReport) -> BaseContent:
    """The content of an open base; tensors that were read since `keep_hashes` are not read again."""
    names = sorted({name for parts in file_tensors(report).values() for name in parts})
    return BaseContent(_architecture(report), checkpoint.content_hashes(names))


def read_content(document: Any, path: Path) -> BaseContent:
    """The content that `document`, read from `path`, states; raises CheckpointError where it is malformed."""
    architecture = document.get("architecture") if isinstance(document, Mapping) else None
    tensors = document.get("tensors") if isinstance(document, Mapping) else None
    if (
        not isinstance(architecture, Mapping)
        or not isinstance(tensors, Mapping)
        or not all(map(_is_hash, tensors.values()))
    ):
        raise CheckpointError(
            f"{path} does not describe a base", expected="its architecture and a SHA-256 for each tensor"
        )
    return BaseContent(architecture, tensors)


def recorded_base(folder: Path) -> BaseContent | None:
    """The base that an adapter's folder records; None where the adapter was not made by a run of ours."""
    path = folder / RECORD_NAME
    if not os.path.lexists(path):
        return None
    return read_content(read_object(adapter_file(folder, RECORD_NAME), MAX_RECORD_BYTES).get("base"), path)


def expected_base(folder: Path, report: ContractReport, other_base: bool) -> BaseContent | None:
    """The base that the adapter in `folder` records, for `require_base`; None without a record, or with `other_base`.

    Raises UsageProblem where the architecture or the tensors' names are not those of `report`.
    """
    recorded = None if other_base else recorded_base(folder)
    if recorded is not None:
        require_same_model(recorded, report, _OTHER_BASE, _USE_ANYWAY)
    return recorded


def require_base(recorded: BaseContent | None, checkpoint: Checkpoint) -> None:
    """Raises UsageProblem where a tensor of the open base is not the recorded one; reads those not read before."""
    if recorded is not None:
        present = checkpoint.content_hashes(recorded.tensors)
        require_same_tensors(recorded, present, checkpoint.path, _OTHER_BASE, _USE_ANYWAY)


def is_of_another_format(folder: Path, report: ContractReport) -> bool:
    """Whether the recorded base has none of the tensor names of `report`, so that contents cannot be compared."""
    recorded = recorded_base(folder)
    names = {name for parts in file_tensors(report).values() for name in parts}
    return recorded is not None and bool(recorded.tensors) and names.isdisjoint(recorded.tensors)


def require_same_model(saved: BaseContent, report: ContractReport, found: str, action: str) -> None:
    """Raises UsageProblem that begins with `found` where the architecture or the tensors' names differ."""
    present = _architecture(report)
    for field in sorted(saved.architecture.keys() | present.keys()):
        before, now = saved.architecture.get(field), present.get(field)
        if before != now:
            raise UsageProblem(f"{found}: {field} was {before} and is {now}", where=str(report.path), action=action)
    names = {name for parts in file_tensors(report).values() for name in parts}
    if names != saved.tensors.keys():
        other = min(names ^ saved.tensors.keys())
        raise UsageProblem(f"{found}: only one of them has {other}", where=str(report.path), action=action)


def require_same_tensors(saved: BaseContent, present: Mapping[str, str], path: Path, found: str, action: str) -> None:
    """Raises UsageProblem that begins with `found` where a tensor's bytes differ."""
    changed = [name for name, content in present.items() if saved.tensors.get(name) != content]
    if changed:
        raise UsageProblem(
            f"{found}: {len(changed)} of {len(present)} tensors differ, first {changed[0]}",
            where=str(path), action=action,
        )  # fmt: skip


def _architecture(report: ContractReport) -> dict[str, Any]:
    """After a round trip through JSON, so that it compares with a stored one."""
    architecture: dict[str, Any] = json.loads(json.dumps(report.architecture.as_config()))
    return architecture


def _is_hash(text: Any) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None
