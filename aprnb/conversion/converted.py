"""The result of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.conversion.plan import ConversionPlan, Kind
from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Document, Fields, Messages, Status
from aprnb.units import bytes_text, duration_text


@dataclass(frozen=True)
class Converted(Displayed):
    """A written checkpoint.

    Attributes:
        source: the file or folder that was read.
        path: the file or folder that was written.
        format: "apr", "gguf", "safetensors" or "huggingface" (a folder).
        tensors: how many were written.
        size_bytes: of all written files.
        seconds: that the conversion took.
        warnings: of the source, and what the target does not keep.
        plan: what became what, as it was known before the first byte was written.
        assumptions: fields of the architecture that the source does not state; the target may.
    """

    source: Path
    path: Path
    format: Kind
    tensors: int
    size_bytes: int
    seconds: float
    warnings: tuple[str, ...]
    plan: ConversionPlan
    assumptions: tuple[str, ...] = ()

    @property
    def modelfile(self) -> Path | None:
        """The Modelfile for Ollama that was also written, or None."""
        return self.plan.modelfile

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "source": str(self.source),
            "path": str(self.path),
            "format": self.format,
            **self.plan.modelfile_json(),
            "tensors": self.tensors,
            "size_bytes": self.size_bytes,
            "sizes": self.plan.rows_json(),
            "seconds": round(self.seconds, 3),
            "assumptions": list(self.assumptions),
            "warnings": list(self.warnings),
        }

    def document(self) -> Document:
        """The fields with their units, what became what, and the warnings."""
        return self._document(self.plan.blocks())

    def after_plan(self) -> Document:
        """The document for a reader who has just seen what becomes what in the plan."""
        return self._document(())

    def _document(self, sizes: tuple[Block, ...]) -> Document:
        blocks: list[Block] = [
            Fields(
                (
                    ("from", str(self.source), ""),
                    *self.plan.written_rows(),
                    ("tensors", self.tensors, ""),
                    ("size", bytes_text(self.size_bytes), f"{self.size_bytes:,} bytes"),
                    ("time", duration_text(self.seconds), ""),
                )
            ),
            *sizes,
        ]
        if self.warnings:
            blocks.append(Messages("warning", self.warnings))
        rest = tuple(text for text in self.assumptions if f"assumed {text}" not in self.warnings)
        if rest:
            blocks.append(Messages("assumption", rest))
        status: Status = "warning" if self.warnings else "ok"
        return Document(f"Converted {self.path.name}", status, tuple(blocks))
