"""Interrupting a run: the first request asks it to save and stop, a second press stops it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_LOOK_S = 0.2
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupt:
    """Watches for a request to stop while the `with` block lasts; `requested` turns true at the first.

    A request is SIGINT, SIGTERM or SIGHUP, a call of `request()`, or a file at `stop_file`, which anyone may create
    who can write into the run's folder. A second SIGINT raises KeyboardInterrupt. SIGHUP that
    the process ignores, as under `nohup`, stays ignored. Only the main thread can own signal
    handlers. The previous ones are restored when the block ends, also by an error.
    """

    def __init__(self, stop_file: Path | None = None) -> None:
        self._pressed = threading.Event()
        self._stop_file = stop_file
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        if self._stop_file is not None and not self._pressed.is_set() and os.path.lexists(self._stop_file):
            self._pressed.set()
        return self._pressed.is_set()

    def request(self) -> None:
        """Asks the run to save and stop at the next micro-batch."""
        self._pressed.set()

    def wait(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> bool:
        """Waits until a stop is requested, at most `seconds`; returns whether it is."""
        end = clock() + seconds
        while not self.requested and clock() < end:
            self._pressed.wait(min(_LOOK_S, seconds))
        return self.requested

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            names = _ENDING if _hears_hang_up() else _ENDING[:-1]
            numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
            self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            # A handler that C code had installed (None) cannot be handed back; the signal then has its usual meaning.
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual if previous is None else previous)
        self._previous = {}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._pressed.is_set():
            raise KeyboardInterrupt
        self.request()


@contextmanager
def ending_as_interrupts() -> Iterator[None]:
    """During the block SIGTERM and SIGHUP raise KeyboardInterrupt where they would end the process without a word.

    A handler of the program's own stays, and so does SIGHUP that is ignored. Only the main thread can own handlers.
    """
    numbers = [getattr(signal, name) for name in _ENDING[1:] if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _raise_interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _raise_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _hears_hang_up() -> bool:
    return not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
