"""Paths of sidecar files: plain names, and links that stay in the folder."""

from __future__ import annotations

from pathlib import Path

from aprnb.errors import CheckpointError
from aprnb.formats.source import is_file, is_link


def find_sidecar(folder: Path, name: str) -> Path | None:
    """The path of the file `name` in `folder`; None where there is none, or no regular one.

    Raises CheckpointError for a link that leads out of the folder.
    """
    return safe_path(folder, name) if is_file(folder / name) else None


def safe_path(folder: Path, name: str) -> Path:
    """The path of `name`, a file of `folder` itself.

    Raises CheckpointError for a name with a path in it and for a link that leads out of the folder. Allowed are the
    links of the Hugging Face hub's cache, from `snapshots/REVISION` into the `blobs` next to `snapshots`. A hard link
    is the file itself and cannot be distinguished from it.
    """
    path = folder / name
    if name in ("", ".", "..") or "\0" in name or "/" in name or "\\" in name or path.name != name:
        raise CheckpointError(f"{folder} names the file {name[:80]!r}", expected="a plain file name, without a path")
    if is_link(path) and _target_folder(path) not in _homes(folder.resolve()):
        raise CheckpointError(
            f"{path} is a link to {path.resolve()}", expected="a file inside the folder",
            action="copy the file into the folder",
        )  # fmt: skip
    return path


def _target_folder(link: Path) -> Path:
    try:
        return link.resolve(strict=True).parent
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise CheckpointError(f"{link} is a broken link") from error


def _homes(folder: Path) -> tuple[Path, ...]:
    """The folders in which links of `folder` may end."""
    return (folder, *(above.parent / "blobs" for above in folder.parents if above.name == "snapshots"))
