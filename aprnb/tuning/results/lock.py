"""The lock of a run's folder: one process at a time writes there, and a second one is told which.

The system holds the lock for the process and releases it with the process, however that ends. `filelock` would empty
the file each time it is tried, so that it could not say who holds it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from aprnb.errors import AprnbError, OutputError, OutputExists
from aprnb.formats.atomic import failed_to_write
from aprnb.formats.source import open_regular
from aprnb.printable import visible

_MOST_BYTES = 4096
_TRIES, _BETWEEN_S = 25, 0.02
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BEYOND = 1 << 30
"""Windows locks a part of a file, which others cannot read: one that holds nothing."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock at `path` during the block; the file names the process, its machine and the time.

    Raises OutputExists where another process holds it, and names that; OutputError where the file cannot be written.
    """
    descriptor = _opened(path)
    try:
        if not _acquire_soon(descriptor):
            raise in_use(path)
        holder = {
            "process": os.getpid(),
            "machine": socket.gethostname(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        _overwrite(descriptor, json.dumps(holder) + "\n", path)
        try:
            yield
        finally:
            with suppress(OutputError):
                _overwrite(descriptor, "", path)
    finally:
        os.close(descriptor)


def in_use(path: Path) -> OutputExists:
    """The error of a second run into the folder of the lock at `path`: it names the first."""
    return OutputExists(
        f"{path.parent} is in use by {_holder_text(path)}",
        action="wait until it ends, stop it, or choose another --output",
    )


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`, which need not be writable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        return not _acquire(descriptor, shared=True)
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> dict[str, Any]:
    """What the lock file says: `process`, `machine`, `started`; empty where nobody holds it."""
    try:
        with open_regular(path) as file:
            found = json.loads(file.read(_MOST_BYTES))
    except (AprnbError, OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _holder_text(path: Path) -> str:
    holder = {name: visible(str(value), 80) for name, value in holder_of(path).items()}
    if "process" not in holder:
        return "another process"
    return f"process {holder['process']} on {holder.get('machine', '?')} since {holder.get('started', '?')}"


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise OutputExists(f"{path} is a link; nothing is written there", action="remove the link") from None
        raise failed_to_write(path, error) from error


def _acquire_soon(descriptor: int) -> bool:
    """Tries for a moment: a process that asks whether the lock is held has it itself for that long."""
    for _ in range(_TRIES):
        if _acquire(descriptor):
            return True
        time.sleep(_BETWEEN_S)
    return False


def _overwrite(descriptor: int, text: str, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode())
    except OSError as error:
        raise failed_to_write(path, error) from error


if sys.platform == "win32":
    import msvcrt

    def _acquire(descriptor: int, *, shared: bool = False) -> bool:  # noqa: ARG001  there are no shared locks
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _acquire(descriptor: int, *, shared: bool = False) -> bool:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
