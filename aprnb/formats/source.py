"""Bounded reading of a file that another process may change; no other module opens files for reading.

Reads instead of a memory map: a file that shrinks kills a process that has mapped it, while a read gives an error. Only
regular files are read: opened without blocking, and checked after opening, when the name can no longer be exchanged.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from io import FileIO
from pathlib import Path

from aprnb.errors import CheckpointError, FileMissing, TruncatedFile, UnsupportedFormat
from aprnb.printable import first_names

# Without O_NONBLOCK the open of a pipe waits for a writer; Windows has none of these but O_BINARY.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))
_PART_BYTES = 16 << 20
_MODEL_ENDINGS = (".apr", ".gguf", ".safetensors")
LFS_POINTER = (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`")
"""How the text starts that git leaves in place of a large file, what it is, and what to do."""


class ByteSource:
    """A regular file opened for reading; safe to share between threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open_regular(self.path)
        self._lock = threading.Lock()
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size_bytes: int, what: str) -> bytearray:
        """Exactly `size_bytes` bytes from `offset`; raises TruncatedFile naming `what` where the file ends before."""
        available = max(0, min(size_bytes, self.size_bytes - offset))
        if available < size_bytes:
            raise TruncatedFile(
                f"{self.path} ends at byte {self.size_bytes:,}, inside {what}",
                expected=f"bytes {offset:,} to {offset + size_bytes:,}",
            )
        buffer = bytearray(size_bytes)
        view, read = memoryview(buffer), 0
        try:
            with self._lock:
                self._file.seek(offset)
                while read < size_bytes and (count := self._file.readinto(view[read:])):
                    read += count
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}", where=f"byte {offset:,}") from error
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


def open_regular(path: Path) -> FileIO:
    """Opens a regular file for unbuffered reading; raises FileMissing or CheckpointError for anything else.

    Links are followed: `path` comes from the user, or was checked by `safe_path`.
    """
    _require_regular_file(path)
    try:
        file = FileIO(os.open(path, _FLAGS), "rb")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _not_regular(path)
    return file


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_bytes(path: Path, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes; raises FileMissing or CheckpointError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        parts, read = [], 0
        while size <= limit and (part := _read_part(file, path, min(_PART_BYTES, limit + 1 - read))):
            parts.append(part)
            read += len(part)
            size = max(size, read)  # a file may grow, and those of /proc claim to be empty
    _require_size(path, size, limit)
    return b"".join(parts)


def read_head(path: Path, limit: int, count: int) -> bytes:
    """The first `count` bytes of a regular file of at most `limit` bytes; raises as `read_bytes` does."""
    with open_regular(path) as file:
        _require_size(path, os.fstat(file.fileno()).st_size, limit)
        return _read_part(file, path, count)


def _require_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise CheckpointError(f"{path} takes {size:,} bytes", expected=f"at most {limit:,}")


def require_no_pointer(head: bytes | bytearray, path: Path) -> None:
    """Raises UnsupportedFormat where `head`, at least eight bytes of a file's beginning, is that of a pointer."""
    start, name, action = LFS_POINTER
    if len(head) >= 8 and head.startswith(start[: len(head)]):
        raise UnsupportedFormat(f"{path} is {name}", action=action)


def is_file(path: Path) -> bool:
    """Whether `path` is a regular file; False for every name that cannot be one."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, a folder that may not be read, a NUL
        return False


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; False for every name that cannot be one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_link(path: Path) -> bool:
    """Whether `path` is a symbolic link; False for every name that cannot be one."""
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def _read_part(file: FileIO, path: Path, size_bytes: int) -> bytes:
    try:
        return file.read(size_bytes) or b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _require_regular_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileMissing(f"no file at {path}", action=_nearby(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileMissing(f"{path} cannot be reached: {reason}") from error
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a directory", expected="a file", action=_nearby(path / "x"))
    if not stat.S_ISREG(mode):
        raise _not_regular(path)


def _not_regular(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is not a regular file (a pipe, socket or device)", expected="a regular file")


def _nearby(path: Path) -> str:
    """What to do next: the models in the folder of the missing one."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in _MODEL_ENDINGS)
    except OSError:
        return f"check the path: there is no folder {path.parent}"
    if not names:
        return f"check the path: {path.parent} holds no {', '.join(_MODEL_ENDINGS)} file"
    return f"{path.parent} holds {first_names(names, 5)}"
