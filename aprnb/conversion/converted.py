"""The result of a conversion, and what its writer reports."""

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
    """What a writer reports: the number of tensors, and warnings for what it could not do as requested."""

    tensors: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted(Displayed):
    """The written checkpoint; `warnings` are those of the source, and what could not be done as requested."""

    source: Path
    path: Path
    format: Kind
    tensors: int
    size_bytes: int
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
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
