"""Which reader a path needs: told by its first bytes, never by its name."""

from __future__ import annotations

from pathlib import Path

from aprnb.formats.apr import read_apr
from aprnb.formats.contents import Contents
from aprnb.formats.gguf import MAGIC as GGUF_MAGIC
from aprnb.formats.gguf import read_gguf
from aprnb.formats.shards import is_manifest, read_manifest
from aprnb.formats.source import ByteSource


def read_contents(path: Path, verify: bool) -> Contents:
    """What the file (or folder) at `path` holds; the caller closes its sources.

    Raises FileMissing, ForeignFormat for a file of another kind, CheckpointError for one that is damaged.
    """
    source = ByteSource(path)
    try:
        if source.read(0, min(4, source.size_bytes), "the magic") == GGUF_MAGIC:
            return read_gguf(source)
        if is_manifest(source):
            return read_manifest(source, verify)
        return read_apr(source, verify)
    except BaseException:
        source.close()
        raise
