"""Rich display for objects that can describe themselves as a document."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aprnb.display.document import Document


class Displayed:
    """Mixin: text and HTML of the subclass's `document()`, without a Jupyter import."""

    __slots__ = ()

    @property
    def exit_code(self) -> int:
        """What the command line returns with this result: 0 is good."""
        return 0

    def document(self) -> Document:
        """The content that is displayed."""
        raise NotImplementedError

    def to_html(self) -> str:
        """The document as HTML that needs neither script nor kernel."""
        from aprnb.display.html import to_html

        return to_html(self.document())

    def __str__(self) -> str:
        from aprnb.display.text import to_text

        return to_text(self.document())

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        bundle = {"text/plain": str(self), "text/html": self.to_html()}
        return {
            kind: shown
            for kind, shown in bundle.items()
            if (include is None or kind in include) and (exclude is None or kind not in exclude)
        }
