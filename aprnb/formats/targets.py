"""Checks output paths: valid names, what exists there, folders that contain only known files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from aprnb.errors import FileMissing, OutputError, OutputExists
from aprnb.formats.source import is_folder

_MOST_NAMED, _DEEPEST = 5, 16
_OTHER_NAME_OR_FORCE = "choose another name, or allow overwriting with --force"


def require_writable(path: Path, force: bool) -> None:
    """Raises where `path` exists (unless `force`) or its folder does not; called before work starts and again after."""
    require_name(path)
    if os.path.lexists(path) and not force:
        raise OutputExists(f"{path} exists", action=_OTHER_NAME_OR_FORCE)
    if path.is_dir() and not path.is_symlink():
        raise OutputExists(f"{path} is a folder; it is not replaced", action="choose another name")


def require_replaceable(folder: Path, force: bool, known: Collection[str]) -> None:
    """Raises OutputExists unless `folder` does not exist, is empty, or may be replaced.

    It may with `force`, if it is not a link and everything in it matches `known`: paths below it, `*` within a name.
    """
    require_name(folder)
    if os.path.lexists(folder):
        require_known(folder, force, known, folder)


def require_known(folder: Path, force: bool, known: Collection[str], name: Path) -> None:
    """As `require_replaceable`, for what exists at `folder` and is called `name` in errors."""
    if folder.is_symlink() or not folder.is_dir():
        what = "a link" if folder.is_symlink() else "not a folder"
        raise OutputExists(f"{name} exists and is {what}; it is not replaced", action="choose another name")
    try:
        if not any(folder.iterdir()):
            return
        unknown = list(islice(unknown_files(folder, known), _MOST_NAMED + 1)) if force else []
    except OSError as error:
        raise OutputError(f"{name} cannot be read: {error.strerror}", action="choose another name") from error
    if not force:
        raise OutputExists(f"{name} exists", action=_OTHER_NAME_OR_FORCE)
    if unknown:
        more = " and more" if len(unknown) > _MOST_NAMED else ""
        raise OutputExists(
            f"{name} holds {', '.join(unknown[:_MOST_NAMED])}{more}, not written by aprnb; nothing is removed",
            action="choose another name, or move these files first",
        )


def unknown_files(folder: Path, known: Collection[str]) -> Iterator[str]:
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
    """Raises where no file of this name can be created: its folder is missing, or the name is too long or has a NUL."""
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
