"""Names that one file gives to another: they stay inside the folder."""

from __future__ import annotations

from pathlib import Path

from aprnb.errors import CheckpointError


def require_inside(folder: Path, name: str) -> Path:
    """The path of `name`, a file of `folder` itself.

    Raises CheckpointError for a name with a way in it and for a link that leads out; the hub's cache, whose snapshots
    are links into the `blobs` beside them, is as good as the folder.
    """
    path = folder / name
    if name in ("", ".", "..") or "\0" in name or "/" in name or "\\" in name or path.name != name:
        raise CheckpointError(f"{folder} names the file {name[:80]!r}", expected="a plain file name, without a path")
    if not path.is_symlink():
        return path
    home = path.resolve().parent
    blobs = folder.resolve().parent.parent / "blobs"
    if home not in (folder.resolve(), blobs):
        raise CheckpointError(
            f"{path} is a link to {path.resolve()}", expected="a file inside the folder",
            action="open the folder that it leads to, or copy the file",
        )  # fmt: skip
    return path
