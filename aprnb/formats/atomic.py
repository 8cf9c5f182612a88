"""Atomic files and folders: written to a temporary path in the same folder, synced, then renamed.

What is replaced is removed only after the rename, and restored when anything fails before that.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from aprnb.errors import NoSpace, OutputError
from aprnb.formats.targets import require_known, require_replaceable, require_writable

_SUFFIX = ".part"
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def require_place_of_file(path: Path, force: bool = False) -> None:
    """Raises what `atomic_file` would raise: an output that exists, a missing or read-only folder. Call before work."""
    require_writable(path, force)
    with _work_folder(path):
        pass


def require_place_of_folder(target: Path, force: bool = False, known: Collection[str] = ()) -> None:
    """The same of `atomic_folder`."""
    require_replaceable(target, force, known)
    with _work_folder(target):
        pass


@contextmanager
def atomic_file(path: Path, force: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that is renamed to `path` when the block succeeds, and removed when it raises."""
    require_writable(path, force)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=_prefix(path), suffix=_SUFFIX, dir=path.parent)
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
    """A path in a private folder at which to write and check a file; it is renamed when the block succeeds."""
    require_writable(path, force)
    with _work_folder(path) as work:
        temporary = work / path.name
        try:
            yield temporary
            require_writable(path, force)
            temporary.replace(path)
        except OSError as error:
            raise failed_to_write(path, error) from error
        except OutputError as error:
            raise _renamed(error, temporary, path) from error


@contextmanager
def atomic_folder(target: Path, force: bool = False, known: Collection[str] = ()) -> Iterator[Path]:
    """An empty folder to fill; it is renamed to `target` when the block succeeds, and removed when it raises.

    Raises OutputExists where `require_replaceable` does, OutputError where writing fails.
    """
    require_replaceable(target, force, known)
    with _work_folder(target) as work:
        filling = work / "new"
        try:
            filling.mkdir()
            yield filling
            for path in (*filling.iterdir(), filling):
                sync(path)
            require_replaceable(target, force, known)
            _replace(target, filling, force, known)
            sync(target.absolute().parent)
        except OSError as error:
            raise failed_to_write(target, error) from error
        except OutputError as error:
            raise _renamed(error, filling, target) from error


def _renamed(error: OutputError, temporary: Path, path: Path) -> OutputError:
    """The error with the name of what is written in place of the temporary one."""
    found = error.found.replace(str(temporary), str(path))
    return type(error)(found, expected=error.expected, action=error.action)


def remove_folder(folder: Path, known: Collection[str], force: bool = True) -> None:
    """Removes `folder` if it exists; raises OutputExists where `require_replaceable` does, OutputError where it fails.

    The folder is moved aside first, so that nothing can be added between the check and the removal.
    """
    require_replaceable(folder, force, known)
    try:
        _replace(folder, None, True, known)
    except OSError as error:
        raise failed_to_write(folder, error) from error


def empty_folder(folder: Path, known: Collection[str], keep: Collection[str]) -> None:
    """Removes what matches `known` in `folder`, but for the files `keep`.

    Everything is moved aside first, so that nothing can be added between the check and the removal. Raises
    OutputExists, with everything back in its place, where the folder contains anything else.
    """
    aside = folder / _work_name(folder)
    try:
        aside.mkdir()
        for path in [path for path in folder.iterdir() if path.name not in keep and path != aside]:
            path.rename(aside / path.name)
        require_known(aside, True, known, folder)
        shutil.rmtree(aside)
    except OSError as error:
        raise failed_to_write(folder, error) from error
    finally:
        if aside.is_dir():
            for path in list(aside.iterdir()):
                path.rename(folder / path.name)
            aside.rmdir()


def leftovers(target: Path) -> Iterator[Path]:
    """Temporary files and folders that a killed process left next to `target`, which it was about to write."""
    return target.absolute().parent.glob(f"{glob.escape(_prefix(target))}*{_SUFFIX}")


def _prefix(target: Path) -> str:
    """Of temporary names: short, whatever the target's length, and its own, so that `leftovers` finds no other's."""
    return f".aprnb-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}-"


def _work_name(target: Path) -> str:
    return f"{_prefix(target)}{secrets.token_hex(4)}{_SUFFIX}"


def _replace(target: Path, successor: Path | None, force: bool, known: Collection[str]) -> None:
    """Moves `successor` to `target`; with None, `target` is only removed.

    A former folder is first moved into a private one, so that no file can be added to it, and checked again. It is
    removed after the successor is in place; on failure it is moved back.
    """
    aside = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.absolute().parent))
    former = aside / "former"
    try:
        if os.path.lexists(target):
            target.rename(former)
            require_known(former, force, known, target)
        if successor:
            successor.rename(target)
        if os.path.lexists(former):
            shutil.rmtree(former, ignore_errors=successor is not None)
    finally:
        if os.path.lexists(former) and (successor is None or successor.exists()):
            _move_back(former, target)
        with suppress(OSError):
            aside.rmdir()


def _move_back(former: Path, target: Path) -> None:
    try:
        former.rename(target)
    except OSError as error:
        raise OutputError(
            f"{target} was moved to {former} and cannot be moved back: {error.strerror}",
            action=f"move {former} back to {target}",
        ) from error


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """A new private folder next to `target`, removed at the end; its name is short, whatever the target's length."""
    try:
        work = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.absolute().parent))
    except OSError as error:
        raise failed_to_write(target, error) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_text(path: Path, text: str, force: bool = False) -> None:
    with atomic_file(path, force) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # half a surrogate pair of a name: JSON's own escape


def write_json(path: Path, document: Mapping[str, Any], force: bool = False) -> None:
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n", force)


def failed_to_write(path: Path, error: OSError) -> OutputError:
    """The error for `path`, whatever the name of the temporary file."""
    if error.errno == errno.EFBIG:
        return NoSpace(
            f"the size of a file is limited here: no space left to write {path}",
            action="raise the limit (`ulimit -f`), or write to a disk that takes files of this size",
        )
    if error.errno in _NO_SPACE:
        return NoSpace(f"no space left to write {path}", action="free some space or write to another disk")
    action = "write into a folder that you may change" if error.errno in _NO_PERMISSION else None
    return OutputError(f"{path} could not be written: {error.strerror}", action=action)


def umask() -> int:
    """The process's mask for the modes of new files."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def sync(path: Path) -> None:
    """Syncs a file or folder to the disk; a folder only where the system can open one."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
