"""An answer that appears as it is generated: one display that is updated, and at the end static."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aprnb.display.document import Block, Document, Paragraph, Passage
from aprnb.notebook.pacing import Pace
from aprnb.notebook.screen import Screen, publish, static_bundle, wants_static
from aprnb.phases import Phase
from aprnb.printable import running_text

if TYPE_CHECKING:
    from aprnb.model.answer import Generation


class LiveAnswer:
    """A context manager; `phase` and `text` take what happens, `finish` the answer that was returned.

    With a front end the display is replaced in place. In a terminal the text is printed. Elsewhere, and with
    `APRNB_STATIC=1`, nothing is shown before the result.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._clock = screen, clock
        self._pace = Pace(clock())
        self._prints = not hasattr(screen.shell, "kernel") and sys.stdout.isatty() and not wants_static()
        self._handle: Any = None
        self._phase, self._text = "", ""
        self._answer: Generation | None = None

    def phase(self, phase: Phase) -> None:
        self._phase = str(phase)
        if self._screen.is_live:
            self._show(self._unfinished())

    def text(self, part: str) -> None:
        if self._prints:
            sys.stdout.write(running_text(part))
            sys.stdout.flush()
        self._text, self._phase = self._text + part, ""
        start_s = self._clock()
        if self._screen.is_live and self._pace.is_due(start_s):
            self._show(self._unfinished())
            self._pace.refreshed(start_s, self._clock())

    def finish(self, answer: Generation) -> None:
        self._answer = answer

    def __enter__(self) -> LiveAnswer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = ""
        if self._prints and self._text:
            sys.stdout.write(f"\n{self._answer.outcome}; {self._answer.speed}\n" if self._answer else "\n")
        if self._handle is not None and not self._answer and not self._text:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)  # the error says all
        elif self._handle is not None:
            self._show(_finished(self._answer) if self._answer else self._unfinished())
        if self._answer and (self._handle is not None or (self._prints and self._text)):
            self._screen.was_shown(self._answer)

    def _unfinished(self) -> Document:
        blocks: list[Block] = [Passage(self._text)] if self._text else []
        return Document("Answer", None, (*blocks, *([Paragraph(self._phase)] if self._phase else [])))

    def _show(self, document: Document) -> None:
        if self._handle is None:
            self._handle = publish(static_bundle(document), display_id=True)
        else:
            self._handle.update(static_bundle(document), raw=True)


def _finished(answer: Generation) -> Document:
    shown = answer.document()
    speed = [Paragraph(answer.speed)] if answer.speed else []
    return Document(shown.title, shown.status, (*shown.blocks, *speed))
