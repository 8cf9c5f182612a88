"""The result of a conversion: what the writer returns, and what `aprnb.convert` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Document, Fields, Messages, Status
from aprnb.units import bytes_text, duration_text

Kind = Literal["apr", "gguf", "safetensors", "huggingface"]


@dataclass(frozen=True)
class Written:
    """How many tensors a writer wrote, and notes on what the target does not keep."""

    tensors: int
    notes: tuple[str, ...] = ()


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
    """

    source: Path
    path: Path
    format: Kind
    tensors: int
    size_bytes: int
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "source": str(self.source),
            "path": str(self.path),
            "format": self.format,
            "tensors": self.tensors,
            "size_bytes": self.size_bytes,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
        }

    def document(self) -> Document:
        """The fields with their units, and the warnings."""
        blocks: list[Block] = [
            Fields(
                (
                    ("from", str(self.source), ""),
                    ("to", str(self.path), self.format),
                    ("tensors", self.tensors, ""),
                    ("size", bytes_text(self.size_bytes), f"{self.size_bytes:,} bytes"),
                    ("time", duration_text(self.seconds), ""),
                )
            )
        ]
        if self.warnings:
            blocks.append(Messages("warning", self.warnings))
        status: Status = "warning" if self.warnings else "ok"
        return Document(f"Converted {self.path.name}", status, tuple(blocks))
