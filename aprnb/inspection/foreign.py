"""What can be shown of a file that is refused by name: the refusal, and what its header says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.display.bundle import Displayed
from aprnb.errors import ForeignFormat

if TYPE_CHECKING:
    from aprnb.display.document import Document


@dataclass(frozen=True)
class ForeignReport(Displayed):
    """A container that holds no transformer for us; its header's facts are all that is read of it."""

    path: Path
    error: ForeignFormat

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
        from aprnb.display.document import Document, Fields, Paragraph

        facts = tuple((name, value, "") for name, value in self.error.facts.items())
        return Document(self.path.name, "failed", (Paragraph(str(self.error)), Fields(facts)))
