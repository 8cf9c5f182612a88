"""The report on a container that is not supported: the error, and what its header says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.display.bundle import Displayed
from aprnb.display.document import Document, Fields, Paragraph
from aprnb.errors import UnsupportedFormat


@dataclass(frozen=True)
class UnsupportedReport(Displayed):
    """A container of another format; nothing but its header is read."""

    path: Path
    error: UnsupportedFormat

    @property
    def ok(self) -> bool:
        return False

    @property
    def exit_code(self) -> int:
        return self.error.exit_code

    def to_json(self) -> dict[str, Any]:
        return {
            "file": {"path": str(self.path), "size_bytes": self.path.stat().st_size},
            "header": dict(self.error.facts),
            "error": self.error.to_json(),
        }

    def document(self) -> Document:
        facts = tuple((name, value, "") for name, value in self.error.facts.items())
        return Document(self.path.name, "failed", (Paragraph(str(self.error)), Fields(facts)))
