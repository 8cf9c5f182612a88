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
    """A container that is recognised and not supported; only its header is read.

    Attributes:
        path: the file.
        error: what `aprnb.open` raises for it; `error.facts` are the header's values by name.
    """

    path: Path
    error: UnsupportedFormat

    @property
    def ok(self) -> bool:
        """False."""
        return False

    @property
    def exit_code(self) -> int:
        """4, that of the error."""
        return self.error.exit_code

    def to_json(self) -> dict[str, Any]:
        """File, header and error."""
        return {
            "file": {"path": str(self.path), "size_bytes": self.path.stat().st_size},
            "header": dict(self.error.facts),
            "error": self.error.to_json(),
        }

    def document(self) -> Document:
        """The error and the header's values."""
        facts = tuple((name, value, "") for name, value in self.error.facts.items())
        return Document(self.path.name, "failed", (Paragraph(str(self.error)), Fields(facts)))
