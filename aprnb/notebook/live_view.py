"""The displays of a live panel: HTML that is replaced in place, and at the end a static result."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from aprnb.display.document import Document
from aprnb.display.html import to_html
from aprnb.display.text import to_text
from aprnb.notebook.screen import encoded, picture_bundle, pictures, publish, static_bundle, without_pictures

_EMPTY = {"text/plain": "", "text/html": ""}


class LiveView:
    """Four displays: the numbers with the curve, the picture of the end, the Stop button, the plan.

    Each is one output, so that a refresh of the numbers closes nothing that was opened in the plan. `panel` is the id
    of the first, with which the others begin.
    """

    def __init__(self, numbers_html: str) -> None:
        self.panel = f"aprnb-{uuid4().hex[:12]}"
        self._numbers = self._published(self.panel, numbers_html, "fine-tuning …")
        self._picture = self._published(f"{self.panel}-picture", "")
        self._stop = self._published(f"{self.panel}-stop", "")
        self._plan = self._published(f"{self.panel}-plan", "")

    def numbers(self, html: str) -> None:
        self._numbers.update(_bundle(self.panel, html, "fine-tuning …"), raw=True)

    def stop(self, html: str) -> None:
        self._stop.update(_bundle(f"{self.panel}-stop", html), raw=True)

    def plan(self, document: Document) -> None:
        self._plan.update(_bundle(f"{self.panel}-plan", to_html(document), to_text(document)), raw=True)

    def close(self, document: Document | None) -> None:
        """Replaces the live displays by static ones; None leaves nothing."""
        self._numbers.update(static_bundle(without_pictures(document)) if document else _EMPTY, raw=True)
        for picture in pictures(document)[:1] if document else ():
            self._picture.update(encoded(picture_bundle(picture)), raw=True)
        self._plan.update(_EMPTY, raw=True)
        self._stop.update(_EMPTY, raw=True)

    def _published(self, name: str, html: str, text: str = "") -> Any:
        return publish(_bundle(name, html, text), display_id=name)


def clock_text() -> str:
    """The time of day, by which a reader sees how old a live output is."""
    return datetime.now().strftime("%H:%M:%S")


def _bundle(name: str, html: str, text: str = "") -> dict[str, str]:
    return {"text/plain": text, "text/html": f'<div id="{name}">{html}</div>'}
