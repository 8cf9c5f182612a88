"""Files and folders that arrive whole or not at all: written beside their target, synced, renamed into place.

What is replaced is only removed when its successor is in place, and comes back when anything fails before that.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import IO

from aprnb.errors import FileMissing, OutputError, OutputExists
from aprnb.formats.source import is_folder

_MOST_NAMED, _DEEPEST = 5, 16
_OTHER_NAME_OR_FORCE = "choose another name, or allow overwriting with --force"
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def require_writable(path: Path, force: bool) -> None:
    """Raises where `path` exists (unless `force`) or its folder does not: asked before work starts, and again after."""
    require_name(path)
    if os.path.lexists(path) and not force:
        raise OutputExists(f"{path} exists", action=_OTHER_NAME_OR_FORCE)
    if path.is_dir() and not path.is_symlink():
        raise OutputExists(f"{path} is a folder; it is left alone", action="choose another name")


def require_replaceable(folder: Path, force: bool, known: Collection[str]) -> None:
    """Raises OutputExists unless `folder` is not there, is empty, or may be replaced.

    It may with `force`, if it is no link and everything in it matches `known`: paths below it, `*` within a name.
    """
    require_name(folder)
    if os.path.lexists(folder):
        _require_known(folder, force, known, folder)


def _require_known(folder: Path, force: bool, known: Collection[str], name: Path) -> None:
    """As `require_replaceable`, for what exists at `folder` and is called `name` in errors."""
    if folder.is_symlink() or not folder.is_dir():
        what = "a link" if folder.is_symlink() else "not a folder"
        raise OutputExists(f"{name} exists and is {what}; it is left alone", action="choose another name")
    try:
        if not any(folder.iterdir()):
            return
        foreign = list(islice(foreign_files(folder, known), _MOST_NAMED + 1)) if force else []
    except OSError as error:
        raise OutputError(f"{name} cannot be read: {error.strerror}", action="choose another name") from error
    if not force:
        raise OutputExists(f"{name} exists", action=_OTHER_NAME_OR_FORCE)
    if foreign:
        more = " and more" if len(foreign) > _MOST_NAMED else ""
        raise OutputExists(
            f"{name} holds {', '.join(foreign[:_MOST_NAMED])}{more}, not written by aprnb; nothing is removed",
            action="choose another name, or move these files first",
        )


def foreign_files(folder: Path, known: Collection[str]) -> Iterator[str]:
    """Paths below `folder` that match none of `known`, links and special files among them; links are not followed."""
    patterns = [tuple(pattern.split("/")) for pattern in known]

    def walk(inside: tuple[str, ...]) -> Iterator[str]:
        for entry in sorted(os.scandir(folder.joinpath(*inside)), key=lambda entry: entry.name):
            path = (*inside, entry.name)
            if entry.is_dir(follow_symlinks=False):
                below = walk(path) if len(path) < _DEEPEST else iter(())
                first = next(below, None)
                if first is not None:
                    yield first
                    yield from below
                elif not any(pattern[len(path) :] and _matches(path, pattern[: len(path)]) for pattern in patterns):
                    yield "/".join((*path, ""))
            elif not entry.is_file(follow_symlinks=False) or not any(_matches(path, pattern) for pattern in patterns):
                yield "/".join(path)

    yield from walk(())


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(map(fnmatchcase, path, pattern))


def require_name(path: Path) -> None:
    """Raises where no file of this name can be made: its folder is missing, or the name is too long or has a NUL."""
    if not is_folder(path.absolute().parent):
        raise FileMissing(f"no folder {path.parent} to write {path.name} into", action=f"mkdir -p {path.parent}")
    try:
        str(path.absolute()).encode()
        os.lstat(path)
    except UnicodeEncodeError:
        raise OutputError(f"{path} cannot be written: its name is not UTF-8", action="choose another name") from None
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{path} cannot be written: {reason}", action="choose another name") from None


@contextmanager
def atomic_file(path: Path, force: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` when the block ends well, and leaves nothing behind when it does not."""
    require_writable(path, force)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".aprnb-", suffix=".part", dir=path.parent)
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
    """A path to write and check a file at, in a private folder; it takes its place when the block ends well."""
    require_writable(path, force)
    with _work_folder(path) as work:
        beside = work / path.name
        try:
            yield beside
            require_writable(path, force)
            beside.replace(path)
        except OSError as error:
            raise failed_to_write(path, error) from error
        except OutputError as error:
            found = error.found.replace(str(beside), str(path))
            raise OutputError(found, expected=error.expected, action=error.action) from error


@contextmanager
def atomic_folder(target: Path, force: bool = False, known: Collection[str] = ()) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` when the block ends well and vanishes when it does not.

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


def remove_folder(folder: Path, known: Collection[str]) -> None:
    """Removes `folder`, which holds nothing but `known`; raises OutputExists where it does, OutputError where it fails.

    The folder is moved aside first, so that nothing can be added between the check and the removal.
    """
    require_replaceable(folder, True, known)
    try:
        _replace(folder, None, True, known)
    except OSError as error:
        raise failed_to_write(folder, error) from error


def _replace(target: Path, successor: Path | None, force: bool, known: Collection[str]) -> None:
    """Moves `successor` to `target`; with None, `target` is only removed.

    A former folder is moved into a private one, where nobody adds to it by its name, and checked there again. It is
    removed when its successor is in place, else it comes back.
    """
    aside = Path(tempfile.mkdtemp(prefix=".aprnb-", suffix=".part", dir=target.absolute().parent))
    former = aside / "former"
    try:
        if os.path.lexists(target):
            target.rename(former)
            _require_known(former, force, known, target)
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
    """A new private folder beside `target`, removed at the end; its name is short, whatever the target's length."""
    try:
        work = Path(tempfile.mkdtemp(prefix=".aprnb-", suffix=".part", dir=target.absolute().parent))
    except OSError as error:
        raise failed_to_write(target, error) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_text(path: Path, text: str, force: bool = False) -> None:
    with atomic_file(path, force) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # half a surrogate pair of a name: JSON's own escape


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
