"""Files that arrive whole or not at all: written beside their target, synced, renamed into place."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from aprnb.errors import FileMissing, OutputError, OutputExists

_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def require_writable(path: Path, force: bool) -> None:
    """Raises where `path` exists (unless `force`) or its folder does not: asked before work starts, and again after."""
    if not path.parent.is_dir():
        raise FileMissing(f"no folder {path.parent} to write {path.name} into", action=f"mkdir -p {path.parent}")
    if path.exists() and not force:
        raise OutputExists(f"{path} exists", action="choose another name, or allow overwriting with --force")


@contextmanager
def atomic_file(path: Path, force: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` when the block ends well, and leaves nothing behind when it does not."""
    require_writable(path, force)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise failed_to_write(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        require_writable(path, force)
        os.replace(temporary, path)
    except OSError as error:
        raise failed_to_write(path, error) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def staged(path: Path, force: bool = False) -> Iterator[Path]:
    """A hidden path beside `path` to write and check a file at; it takes its name when the block ends well."""
    require_writable(path, force)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        require_writable(path, force)
        try:
            beside.replace(path)
        except OSError as error:
            raise failed_to_write(path, error) from error
    except OutputError as error:
        found = error.found.replace(str(beside), str(path))
        raise OutputError(found, expected=error.expected, action=error.action) from error
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, force: bool = False) -> None:
    with atomic_file(path, force) as file:
        file.write(text.encode("utf-8"))


def failed_to_write(path: Path, error: OSError) -> OutputError:
    """The error for `path`, whatever the name of the file beside it that was being filled."""
    if error.errno in _NO_SPACE:
        return OutputError(f"no space left to write {path}", action="free some space or write to another disk")
    return OutputError(f"{path} could not be written: {error.strerror}")


def umask() -> int:
    """The process's mask for the modes of new files."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def sync(path: Path) -> None:
    """Brings a file or folder to the disk, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
