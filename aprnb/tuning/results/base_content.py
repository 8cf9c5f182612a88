"""The content of a base: its architecture and a hash of each tensor, taken while it is loaded.

Stored with the run and with the adapter when training starts, and compared when a run is resumed or an adapter merged:
a base that was changed in between, in any format, is detected before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.architecture import ContractReport
from aprnb.architecture.weights import file_tensors
from aprnb.errors import CheckpointError, UsageProblem
from aprnb.formats import Checkpoint

MAX_RECORD_BYTES = 64 << 20
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
