"""Bounded reading of one file that somebody else may change meanwhile.

Plain reads, no memory map: a file that shrinks under a map kills the process, under a read it is an error.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

from aprnb.errors import CheckpointError, FileMissing, TruncatedFile


class ByteSource:
    """A regular file opened for reading; safe to share between threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        _require_regular_file(self.path)
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be opened: {error.strerror}") from error
        self._lock = threading.Lock()
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size_bytes: int, what: str) -> bytearray:
        """Exactly `size_bytes` bytes from `offset`; raises TruncatedFile naming `what` where the file ends before."""
        available = max(0, min(size_bytes, self.size_bytes - offset))
        if available < size_bytes:
            raise TruncatedFile(
                f"{self.path} ends at byte {self.size_bytes:,}, inside {what}",
                expected=f"bytes {offset:,} to {offset + size_bytes:,}",
                action="copy or download the file again",
            )
        buffer = bytearray(size_bytes)
        view, read = memoryview(buffer), 0
        with self._lock:
            self._file.seek(offset)
            while read < size_bytes and (count := self._file.readinto(view[read:])):
                read += count
        if read != size_bytes:
            raise TruncatedFile(
                f"{self.path} became shorter while open: {read:,} of {size_bytes:,} bytes of {what} at byte {offset:,}"
            )
        return buffer

    def is_hole(self, offset: int, size_bytes: int) -> bool:
        """Whether the range is known to read as zeros without being read: a sparse file's hole (False where unsure)."""
        if not hasattr(os, "SEEK_DATA"):
            return False
        with self._lock:
            try:
                return os.lseek(self._file.fileno(), offset, os.SEEK_DATA) >= offset + size_bytes
            except OSError as error:
                return error.errno == errno.ENXIO and offset + size_bytes <= self.size_bytes

    def close(self) -> None:
        self._file.close()


def _require_regular_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileMissing(f"no file at {path}", action=_nearby(path)) from None
    except OSError as error:
        raise FileMissing(f"{path} cannot be reached: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a directory", expected="an .apr file", action=_nearby(path / "x"))
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is not a regular file (a pipe, socket or device)", expected="an .apr file")


def _nearby(path: Path) -> str:
    """What to do next: the `.apr` files that lie where this one was looked for."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix == ".apr")
    except OSError:
        return f"check the path: there is no folder {path.parent}"
    if not names:
        return f"check the path: {path.parent} holds no .apr file"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{path.parent} holds {', '.join(names[:5])}{more}"
