"""The streams of the command line: text with its control characters visible, the loss of its reader, live lines."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Callable
from typing import TextIO

from aprnb.printable import running_text

_UNKNOWN_COLUMNS = 200
_CLEAR_LINE = "\r\x1b[K"
_TICK_S, _LOG_S = 1.0, 10.0
"""What takes longer shows its seconds: on a terminal each second, in a log at first after ten."""


class OutputLost(Exception):
    """Standard output or standard error cannot be written: `reason`. Not an OSError, which writers of files handle."""

    def __init__(self, stream: TextIO, reason: OSError) -> None:
        self.stream, self.reason = stream, reason
        super().__init__(str(reason))

    def discard(self) -> None:
        """Directs the stream to the null device, or the interpreter reports the error again when it ends."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.stream.fileno())
        os.close(null)


class Terminal(io.TextIOBase):
    """A stream that makes control characters visible, in our output and in that of libraries.

    Characters that the stream's encoding lacks are written as escapes. Raises OutputLost where writing fails.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO = stream._stream if isinstance(stream, Terminal) else stream
        self._is_screen = not self._stream.closed and self._stream.isatty()

    def write(self, text: str) -> int:
        shown = running_text(text)
        encoding = self._stream.encoding or "utf-8"
        self._call(self._stream.write, shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def start_of_line(self) -> None:
        """Moves to the start of the line, so that what follows is written over it."""
        self._call(self._stream.write, "\r")

    def clear_line(self) -> None:
        """Moves to the start of the line and erases it."""
        self._call(self._stream.write, _CLEAR_LINE)

    def flush(self) -> None:
        self._call(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base declares an attribute
        return self._stream.encoding

    def _call(self, method: Callable[..., object], *arguments: str) -> None:
        try:
            method(*arguments)
        except OSError as reason:
            lost = OutputLost(self._stream, reason)
            if not (self._is_screen and reason.errno == errno.EIO):
                raise lost from reason
            lost.discard()  # the terminal was closed: SIGHUP says what is to end


class LiveLine:
    """What is done now: a line that is written over on a terminal; in a log a line for each text.

    While nothing else is shown, a thread adds the seconds since the line began, so that no long work is silent: on a
    terminal each second, in a log after 10, 20, 40 … seconds. Call `clear` when the work ends.
    """

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self.terminal, self.is_terminal = terminal, terminal.isatty()
        self._clock, self._lock, self._is_over = clock, threading.RLock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._text, self._behind, self._begun_s, self._next_s, self._is_open = "", "", 0.0, 0.0, False

    def show(self, text: str, *, behind: str = "", logged: bool = True, goes_on: bool = False) -> None:
        """Replaces the line, on a terminal with `behind` after it; a log gets it where it is `logged` or takes long.

        The seconds are those since the work began that `goes_on`.
        """
        with self._lock:
            if self.is_terminal:
                self._rewrite(text + behind)
            elif logged:
                print(text, file=self.terminal, flush=True)
            if goes_on and self._text and not self.is_terminal:
                self._text = text
            else:
                self._begin(text, behind if self.is_terminal else "")

    def keep(self, text: str, then: str | None = None) -> None:
        """Prints a line that remains; `then` is what is done from now on, unless it is what was done before."""
        with self._lock:
            self._erase()
            print(text, file=self.terminal, flush=True)
            if then is not None:
                self._begin(then)

    def clear(self) -> None:
        """Ends the line, and erases it on a terminal."""
        with self._lock:
            self._erase()
            self._text = ""
            self._is_over.set()
            self._thread = None

    def tick(self) -> None:
        """Adds the seconds, if they are due."""
        with self._lock:
            now_s = self._clock()
            if not self._text or now_s < self._next_s:
                return
            text = f"{self._text} … {now_s - self._begun_s:.0f} s{self._behind}"
            if self.is_terminal:
                self._rewrite(text)
            else:
                print(text, file=self.terminal, flush=True)
            self._next_s = now_s + (_TICK_S if self.is_terminal else now_s - self._begun_s)

    def _begin(self, text: str, behind: str = "") -> None:
        self._text, self._behind, self._begun_s = text, behind, self._clock()
        self._next_s = self._begun_s + (_TICK_S if self.is_terminal else _LOG_S)
        if self._thread is None and text:
            self._is_over = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._is_over,), daemon=True)
            self._thread.start()

    def _run(self, is_over: threading.Event) -> None:
        while not is_over.wait(_TICK_S / 2):
            try:
                self.tick()
            except (OutputLost, ValueError):  # the main thread finds out when it writes; ValueError: it is closed
                return

    def _rewrite(self, text: str) -> None:
        self._erase()
        print(text[: self._width()], end="", file=self.terminal, flush=True)
        self._is_open = True

    def _erase(self) -> None:
        if self._is_open:
            self.terminal.clear_line()
            self.terminal.flush()
            self._is_open = False

    def _width(self) -> int:
        """A line that is wrapped could not be written over."""
        try:
            columns = os.get_terminal_size(self.terminal.fileno()).columns
        except OSError:
            columns = 0
        return columns - 1 if columns > 1 else _UNKNOWN_COLUMNS  # a terminal without a size has 0
