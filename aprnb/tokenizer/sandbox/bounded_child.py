"""Runs a script of this package in a child process, for work on untrusted input; bounds its time and its output.

Untrusted input may compromise the child, so the parent relies on nothing that the child does: it reads no more bytes
than it asked for, and its clock holds for a child that stops reading, closes its output or starts other processes.

A question is bytes; the script knows where it ends. An answer is its length (8 bytes, little-endian), then its bytes.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self, TypeVar

STDERR_BYTES, REASON_CHARACTERS = 1024**2, 300
_LENGTH_BYTES, _CHUNK_BYTES = 8, 64 * 1024
_SLICE_S = 0.1  # on Windows Ctrl-C is noticed only between two waits
_PIPES_CLOSE_S = 1.0
_Result = TypeVar("_Result")


class ChildError(Exception):
    """Base of what `BoundedChild.ask` raises; the child has been killed."""


class DeadlinePassed(ChildError):
    """No answer in time."""


class AnswerTooLarge(ChildError):
    """An answer, or text on stderr, beyond its limit."""


class ChildFailed(ChildError):
    """The child ended or closed its stdout; the message is the last line of its stderr, or its exit status."""


class BoundedChild:
    """A running script; every exception out of `ask` kills it, and so does the end of the `with` block."""

    def __init__(self, script: Path) -> None:
        # -P keeps the modules of the script's folder off its path. In a session of its own the child does not receive
        # Ctrl-C, and one signal kills it together with the processes that it started.
        command = [sys.executable, "-P", str(script)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        self._running: list[Future[Any]] = []
        self._stderr = self._start(_read_stderr, self._process.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ask(self, question: bytes, most_bytes: int, seconds: float) -> bytes:
        """Send `question` and return the answer: at most `most_bytes`, within `seconds`.

        Raises DeadlinePassed, AnswerTooLarge or ChildFailed.
        """
        deadline = time.monotonic() + seconds
        try:
            sent = self._start(_send, self._process.stdin, question)
            answer = self._result(self._start(_read_answer, self._process.stdout, most_bytes), deadline)
            self._result(sent, deadline)
        except EOFError:
            self.kill()
            raise ChildFailed(self._last_line()) from None
        except BaseException:
            self.kill()
            raise
        self._running = [self._stderr]
        return answer

    def kill(self) -> None:
        """Kill the child and the processes that it started; a second call does nothing."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                _kill_session(self._process)
            self._process.wait()
        # A process that moved to another session is still alive and keeps the pipes open: threads are reading them.
        if not wait(self._running, _PIPES_CLOSE_S).not_done:
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()

    def _start(self, work: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        future: Future[_Result] = Future()

        def run() -> None:
            try:
                future.set_result(work(*arguments))
            except BaseException as problem:
                future.set_exception(problem)

        threading.Thread(target=run, daemon=True).start()
        self._running.append(future)
        return future

    def _result(self, future: Future[_Result], deadline: float) -> _Result:
        while not future.done():
            if self._stderr.done():
                self._stderr.result()  # raises AnswerTooLarge
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeadlinePassed
            wait([future], min(left_s, _SLICE_S))
        return future.result()

    def _last_line(self) -> str:
        said = self._stderr.result() if self._stderr.done() else b""
        line = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return line[:REASON_CHARACTERS] or f"exit status {self._process.returncode}"


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


def _send(stdin: IO[bytes], question: bytes) -> None:
    left = memoryview(question)
    with suppress(OSError):  # the child closed its stdin; it can still answer
        while left:
            left = left[stdin.write(left) :]


def _read_answer(stdout: IO[bytes], most_bytes: int) -> bytes:
    length = int.from_bytes(_read(stdout, _LENGTH_BYTES), "little")
    if length > most_bytes:
        raise AnswerTooLarge(f"more than {most_bytes:,} bytes")
    return _read(stdout, length)


def _read(stdout: IO[bytes], count: int) -> bytes:
    found = io.BytesIO()
    while (left := count - found.tell()) and (chunk := stdout.read(min(left, _CHUNK_BYTES))):
        found.write(chunk)
    if left:
        raise EOFError
    return found.getvalue()


def _read_stderr(stderr: IO[bytes]) -> bytes:
    """The last part of what the child writes, for its last line."""
    total, end = 0, b""
    while chunk := stderr.read(_CHUNK_BYTES):
        total += len(chunk)
        end = (end + chunk)[-_CHUNK_BYTES:]
        if total > STDERR_BYTES:
            raise AnswerTooLarge(f"more than {STDERR_BYTES:,} bytes on stderr")
    return end
