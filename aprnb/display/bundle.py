"""Rich display for objects that can describe themselves as a document."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aprnb.display.document import Document


class Displayed:
    """Mixin: the subclass gives `document()`; this gives its text and HTML, without any Jupyter import."""

    __slots__ = ()

    def document(self) -> Document:
        """What this object shows."""
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
