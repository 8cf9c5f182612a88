"""Interrupting a run: the first press asks the run to save and stop, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Watches SIGINT while the `with` block lasts; `requested` turns true at the first press.

    Only the main thread can own a signal handler: elsewhere (a run in the background) `request()` is the way in, which
    the stop button uses as well. The previous handler is restored when the block ends, also by an error.
    """

    def __init__(self) -> None:
        self._pressed = threading.Event()
        self._previous: Any = None
        self._installed = False

    @property
    def requested(self) -> bool:
        return self._pressed.is_set()

    def request(self) -> None:
        """Asks the run to save and stop at the next micro-batch."""
        self._pressed.set()

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_press)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            # A handler that C code had installed (None) cannot be handed back; SIGINT then raises, its usual meaning.
            previous = signal.default_int_handler if self._previous is None else self._previous
            signal.signal(signal.SIGINT, previous)
            self._installed = False

    def _on_press(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.request()
