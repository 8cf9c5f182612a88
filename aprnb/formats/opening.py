"""Which reader a path needs: told by its first bytes, never by its name."""

from __future__ import annotations

from pathlib import Path

from aprnb.formats.apr import read_apr
from aprnb.formats.contents import Contents
from aprnb.formats.source import ByteSource


def read_contents(path: Path, verify: bool) -> Contents:
    """What the file (or folder) at `path` holds; the caller closes its sources.

    Raises FileMissing, ForeignFormat for a file of another kind, CheckpointError for one that is damaged.
    """
    source = ByteSource(path)
    try:
        return read_apr(source, verify)
    except BaseException:
        source.close()
        raise
