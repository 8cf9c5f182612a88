"""The displays of a live panel: HTML that is replaced in place, and at the end a static result."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

from aprnb.display.document import Document
from aprnb.display.html import to_html
from aprnb.display.text import to_text
from aprnb.notebook.page_script import born_script
from aprnb.notebook.screen import encoded, picture_bundle, pictures, publish, static_bundle, without_pictures

_EMPTY = {"text/plain": "", "text/html": ""}


class LiveView:
    """Four displays: the plan, the numbers with the curve, the picture of the end, the Stop button.

    Each is one output, so that a refresh of the numbers closes nothing that was opened in the plan. `panel` is the id
    of the numbers, with which the others begin. The lock is for the pages that ask for all of it: they are answered by
    another thread.
    """

    def __init__(self, numbers_html: str, text: str) -> None:
        self.panel = f"aprnb-{uuid4().hex[:12]}"
        self._lock, self._shown = threading.RLock(), dict[str, Mapping[str, Any]]()
        self._handles = {
            "-plan": self._published("-plan", ""),
            "": self._published("", numbers_html, text),
            "-picture": self._published("-picture", ""),
            "-stop": self._published("-stop", born_script(self.panel)),
        }

    def numbers(self, html: str, text: str) -> None:
        self._show("", self._bundle("", html, text))

    def stop(self, html: str) -> None:
        self._show("-stop", self._bundle("-stop", html))

    def plan(self, document: Document) -> None:
        self._show("-plan", self._bundle("-plan", to_html(document), to_text(document)))

    def again(self) -> None:
        """Sends all displays as they are, for a page that was opened since; where Stop is empty, it needs no more."""
        with self._lock:
            for place in ("", "-picture", "-plan", "-stop"):
                if place in self._shown:
                    self._handles[place].update(self._shown[place], raw=True)

    def close(self, document: Document | None) -> None:
        """Replaces the live displays by static ones; None leaves nothing."""
        self._show("", static_bundle(without_pictures(document)) if document else _EMPTY)
        for picture in pictures(document)[:1] if document else ():
            self._show("-picture", encoded(picture_bundle(picture)))
        self._show("-plan", _EMPTY)
        self._show("-stop", _EMPTY)

    def _published(self, place: str, html: str, text: str = "") -> Any:
        return publish(self._bundle(place, html, text), display_id=self.panel + place)

    def _show(self, place: str, bundle: Mapping[str, Any]) -> None:
        with self._lock:
            self._shown[place] = bundle
            self._handles[place].update(bundle, raw=True)

    def _bundle(self, place: str, html: str, text: str = "") -> dict[str, str]:
        return {"text/plain": text, "text/html": f'<div id="{self.panel}{place}">{html}</div>'}


def now_text() -> str:
    """Day and time, by which a reader sees how old an output is."""
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
