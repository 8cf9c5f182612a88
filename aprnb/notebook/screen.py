"""The outputs of one shell: whether a live view is possible, and which result was already shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.display.bundle import Displayed
from aprnb.display.document import Document, Picture
from aprnb.notebook.tables import TableScript, interactive_html

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

STATIC_VARIABLE = "APRNB_STATIC"


def wants_static() -> bool:
    """`APRNB_STATIC=1`: no live view and no scripts, so that equal input gives equal output."""
    return os.environ.get(STATIC_VARIABLE, "") not in ("", "0")


@dataclass(frozen=True)
class KernelName:
    """A kernel in a Jupyter server: its id, which a restart keeps, and the session of its process."""

    id: str
    session: str


class Screen:
    """One shell's outputs."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.tables = TableScript()
        self._shown_result: tuple[int, int, str] | None = None

    @property
    def is_live(self) -> bool:
        """Whether a front end in a browser may be connected."""
        return hasattr(self.shell, "kernel") and not wants_static()

    @property
    def kernel(self) -> KernelName | None:
        """The kernel, where a Jupyter server started it; its id is part of the connection file's name."""
        kernel = getattr(self.shell, "kernel", None)
        name = Path(getattr(getattr(kernel, "parent", None), "connection_file", "")).stem
        if not name.startswith("kernel-"):
            return None
        return KernelName(name.removeprefix("kernel-"), str(getattr(getattr(kernel, "session", None), "session", "")))

    @property
    def cell_id(self) -> str | None:
        """The id of the running notebook cell, if the front end reports it."""
        if not hasattr(self.shell, "get_parent"):
            return None
        cell = (self.shell.get_parent() or {}).get("metadata", {}).get("cellId")
        return str(cell) if cell else None

    def show(self, shown: Displayed | Document) -> None:
        """Displays static text and HTML; pictures are separate outputs, which every viewer renders."""
        document = shown.document() if isinstance(shown, Displayed) else shown
        publish(static_bundle(without_pictures(document)))
        for picture in pictures(document):
            publish(picture_bundle(picture))

    def was_shown(self, result: object, words: str = "") -> None:
        """Notes that the cell's result was already displayed: in its place are `words`, or its title."""
        self._shown_result = (id(result), self.shell.execution_count, words)

    def bundle(self, shown: Displayed) -> dict[str, str]:
        """The MIME bundle of an object of ours: static HTML, with interactive tables where scripts may run."""
        document = shown.document()
        if self._shown_result and self._shown_result[:2] == (id(shown), self.shell.execution_count):
            return {"text/plain": f"{type(shown).__name__}: {self._shown_result[2] or document.title} (shown above)"}
        bundle = static_bundle(document)
        if self.is_live:
            bundle["text/html"] = interactive_html(document, self.tables, self.cell_id) or bundle["text/html"]
        return bundle


def static_bundle(document: Document) -> dict[str, str]:
    """Text and HTML of a document."""
    from aprnb.display.html import to_html
    from aprnb.display.text import to_text

    return {"text/plain": to_text(document), "text/html": to_html(document)}


def picture_bundle(picture: Picture) -> dict[str, Any]:
    """A picture and its alternative text."""
    return {"image/png": picture.figure_png, "text/plain": f"[picture: {picture.alt}]"}


def pictures(document: Document) -> list[Picture]:
    """The pictures on the document's first level."""
    return [block for block in document.blocks if isinstance(block, Picture)]


def without_pictures(document: Document) -> Document:
    """The document for viewers that get the pictures as separate outputs."""
    blocks = tuple(block for block in document.blocks if not isinstance(block, Picture))
    return Document(document.title, document.status, blocks)


def publish(bundle: dict[str, Any], **how: Any) -> Any:
    """Sends a MIME bundle to the front end."""
    from IPython.display import display

    return display(encoded(bundle), raw=True, **how)


def encoded(bundle: dict[str, Any]) -> dict[str, str]:
    """The bundle with bytes as base64, as messages have them."""
    from base64 import b64encode

    return {
        kind: b64encode(shown).decode("ascii") if isinstance(shown, bytes) else shown for kind, shown in bundle.items()
    }
