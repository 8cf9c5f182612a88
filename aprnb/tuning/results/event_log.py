"""`events.jsonl`: every event of a run, one line each, written as it happens; and its reader.

The first line of each process that writes is `{"event": "start", "schema": 1, …}`; after it come the records of
`training/events.py`, and at the end `"end"` with the run's result or its error. A process that resumes after step N
says so in its start line: steps and evaluations beyond N that stand before that line were done again.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, NoSpace, OutputExists
from aprnb.formats.atomic import failed_to_write
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import open_regular
from aprnb.tuning.training.events import Event, Planned, to_record

SCHEMA = 1
_MOST_LINE_BYTES = 1 << 20
_PART_BYTES, _HEAD_BYTES = 4 << 20, 256
_MOST_BYTES = 1 << 30
"""More than a million steps write."""
_LINE_FEED, _NAME = b"\n", b'"event"'
_DECODER = json.JSONDecoder()


class EventLog:
    """Appends the events that it is called with to the file at `path`.

    Lines for which the disk has no space are kept and written with the next. Raises OutputError for any other failure.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._waiting = b""
        if path.is_symlink():
            raise OutputExists(f"{path} is a link; nothing is written there", action="remove the link")
        try:
            _cut_torn_line(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            self._begun_at = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise failed_to_write(path, error) from error

    def __call__(self, event: Event) -> None:
        """Writes the event's record; the plan has a file of its own."""
        if not isinstance(event, Planned):
            self._write(to_record(event, self._clock()))

    def start(self, about: Mapping[str, Any]) -> None:
        """Writes the line with which a process begins."""
        self._write({"event": "start", "time": self._clock(), "schema": SCHEMA, "process": os.getpid(), **about})

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Writes the line with which a process ends."""
        self._write({"event": "end", "time": self._clock(), **outcome})

    def forget(self) -> None:
        """Removes what this process wrote: its start was refused, and the run stays what it was."""
        self._waiting = b""
        os.ftruncate(self._descriptor, self._begun_at)

    def close(self) -> None:
        """Writes what is waiting, if there is space by now, and closes the file."""
        with suppress(OSError):
            self._flush()
        os.close(self._descriptor)

    def require_whole(self) -> None:
        """Raises NoSpace where lines were left for which the disk had no space until the end."""
        if self._waiting:
            raise NoSpace(
                f"no space left to write {self._path}: its last {self._waiting.count(_LINE_FEED)} lines are missing",
                action="free some space, then run it again with --resume auto",
            )

    def _write(self, record: Mapping[str, Any]) -> None:
        self._waiting += json.dumps(record, default=str).encode() + _LINE_FEED
        try:
            self._flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise failed_to_write(self._path, error) from error

    def _flush(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[os.write(self._descriptor, self._waiting) :]


class EventReader:
    """Reads the records of a file that may still grow; `new()` yields those since the last call."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._file, self._head = path, 0, 0, b""

    def new(self) -> Iterator[dict[str, Any]]:
        """The records of the complete lines that came since the last call; none where the file does not exist yet.

        A file that another has replaced, as a new run's log does, is read from its beginning. Raises CheckpointError
        for anything but a regular file in its own folder.
        """
        try:
            file = open_regular(safe_path(self.path.parent, self.path.name))
        except FileMissing:
            return
        with file:
            self._begin(file)
            for line in self._lines(file):
                record = _record(line)
                if record is not None:
                    yield record

    def _begin(self, file: FileIO) -> None:
        """Starts again where the file is another, or shorter than was read; raises CheckpointError where it is huge.

        The first line, with its process and time, also tells files apart: a new one often gets the inode of the former.
        """
        found, head = os.fstat(file.fileno()), file.read(_HEAD_BYTES)
        if found.st_size > _MOST_BYTES:
            raise CheckpointError(f"{self.path} takes {found.st_size:,} bytes", expected=f"at most {_MOST_BYTES:,}")
        if found.st_ino != self._file or found.st_size < self._offset or not head.startswith(self._head):
            self._offset = 0
        self._file, self._head = found.st_ino, head

    def _lines(self, file: FileIO) -> Iterator[bytes]:
        """The complete lines from the offset on, which moves before they are yielded; a part without any is skipped."""
        while True:
            file.seek(self._offset)
            raw = file.read(_PART_BYTES)
            whole = len(raw) if len(raw) == _PART_BYTES and _LINE_FEED not in raw else raw.rfind(_LINE_FEED) + 1
            if not whole:
                return
            self._offset += whole
            yield from raw[:whole].split(_LINE_FEED)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None for what is not one: a reader must survive a damaged line."""
    if _NAME not in line or len(line) > _MOST_LINE_BYTES:
        return None
    try:
        found = _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None


def _cut_torn_line(path: Path) -> None:
    """Removes what a killed process left of a line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MOST_LINE_BYTES))
        tail = file.read()
        torn = len(tail) - (tail.rfind(_LINE_FEED) + 1)
        if torn:
            file.truncate(size - torn)
