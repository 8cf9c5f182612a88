"""The result of a merge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Document, Fields, Messages
from aprnb.printable import visible
from aprnb.tuning.results.merge_check import MergeCheck


@dataclass(frozen=True)
class Merged(Displayed):
    """A merged model; `str()` is one line that says what changed, and one for each warning.

    Attributes:
        path: the written `.apr` file.
        tensors: how many it has.
        changed: how many differ from the base's.
        check: the comparison of its logits with those of base + adapter, where one was made.
        warnings: of the base, and what of the adapter is not in the merged model.
    """

    path: Path
    tensors: int
    changed: int
    check: MergeCheck | None = None
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = [f"{self.path}: {self.changed} of {self.tensors} tensors changed"]
        return "\n".join([*said, *(f"⚠ warning: {visible(warning)}" for warning in self.warnings)])

    def document(self) -> Document:
        """The path, what changed, and the warnings."""
        rows = (("output", str(self.path), ""), ("tensors", self.tensors, ""), ("changed", self.changed, ""))
        warnings: tuple[Block, ...] = (Messages("warning", self.warnings),) if self.warnings else ()
        return Document(f"Merged {self.path.name}", "warning" if warnings else "ok", (Fields(rows), *warnings))

    def to_json(self) -> dict[str, Any]:
        """Output path, the numbers of tensors, and the warnings."""
        return {
            "output": str(self.path), "tensors": self.tensors, "changed": self.changed, "warnings": list(self.warnings),
        }  # fmt: skip
