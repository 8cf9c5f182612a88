"""Chooses the reader of a file by its first bytes, or by its name where these do not decide."""

from __future__ import annotations

from pathlib import Path

from aprnb.formats.apr.reader import read_apr
from aprnb.formats.apr.shards import is_manifest, read_manifest
from aprnb.formats.contents import Contents
from aprnb.formats.gguf.reader import MAGIC as GGUF_MAGIC
from aprnb.formats.gguf.reader import read_gguf
from aprnb.formats.huggingface.folder import INDEX_ENDING, read_folder, read_index, read_single
from aprnb.formats.huggingface.safetensors import LENGTH_BYTES, is_safetensors
from aprnb.formats.source import ByteSource, is_folder


def read_contents(path: Path, verify: bool) -> Contents:
    """The contents of the file or folder at `path`; the caller closes its sources.

    Raises FileMissing, UnsupportedFormat for a file of another kind, CheckpointError for one that is damaged.
    """
    if is_folder(path):
        return read_folder(path)
    if path.name.endswith(INDEX_ENDING):
        return read_index(path)
    source = ByteSource(path)
    try:
        head = bytes(source.read(0, min(LENGTH_BYTES + 1, source.size_bytes), "the magic"))
        if head[:4] == GGUF_MAGIC:
            return read_gguf(source)
        if is_manifest(source):
            return read_manifest(source, verify)
        if is_safetensors(head) or (path.suffix == ".safetensors" and 0 < len(head) <= LENGTH_BYTES):
            return read_single(source)
        return read_apr(source, verify)
    except BaseException:
        source.close()
        raise
