"""The streams of the command line: text with its control characters visible, and the loss of its reader."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TextIO

from aprnb.printable import running_text

_CLEAR_LINE = "\r\x1b[K"


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
            raise OutputLost(self._stream, reason) from reason
