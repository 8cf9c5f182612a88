"""A shard manifest: a JSON file that lists the `.apr` files over which one model is distributed.

{"version": "2.0", "shard_count": N, "total_size": …, "tensor_count": …,
 "shards": [{"filename": …, "index": 0, "size": …, "tensors": [names]}, …],
 "weight_map": {tensor name: shard index}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.apr.reader import read_apr
from aprnb.formats.contents import Checksum, Contents, ShardWarning, TensorEntry
from aprnb.formats.metadata import read_metadata, same
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import ByteSource
from aprnb.printable import shown_name

MAX_MANIFEST_BYTES = 64 << 20
MAX_SHARDS = 1000
_HEAD_BYTES = 4096
_OF_ONE_SHARD = {"sharding", "name", "created_at", "total_size", "param_count", "tensor_shapes"}
"""Metadata that may differ between the shards of one model."""

_WORST_FIRST: tuple[Checksum, ...] = ("absent", "not checked", "ok")


@dataclass(frozen=True, slots=True)
class _Shard:
    filename: str
    index: int
    tensors: frozenset[str]


def is_manifest(source: ByteSource) -> bool:
    """Whether the file is JSON that names shards by number (the index of safetensors names files)."""
    head = bytes(source.read(0, min(_HEAD_BYTES, source.size_bytes), "the start"))
    return head.lstrip()[:1] == b"{" and b'"shard_count"' in head


def read_manifest(source: ByteSource, verify: bool) -> Contents:
    """The shards' contents as one; the manifest's own source is closed.

    Raises CheckpointError where the manifest and its files disagree, FileMissing for a missing shard.
    """
    shards = _read_shards(source)
    read: list[Contents] = []
    try:
        for shard in shards:
            part = ByteSource(_inside(source.path, shard.filename))
            try:
                read.append(read_apr(part, verify))
            except BaseException:
                part.close()
                raise
            _require_promised(shard, read[-1], source.path)
        whole = _joined(source.path, shards, read)
    except BaseException:
        for contents in read:
            for file in contents.files:
                file.source.close()
        raise
    source.close()
    return whole


def _read_shards(source: ByteSource) -> list[_Shard]:
    path = source.path
    if source.size_bytes > MAX_MANIFEST_BYTES:
        raise _wrong(path, f"takes {source.size_bytes:,} bytes", f"at most {MAX_MANIFEST_BYTES:,}")
    manifest, repeated = read_metadata(
        lambda: source.read(0, source.size_bytes, "the shard manifest"), path, 0, source.size_bytes
    )
    if repeated:
        raise _wrong(path, f"lists {repeated[0][0]} twice", "each key once")
    if str(manifest.get("version", ""))[:2] != "2.":
        raise _wrong(path, f"has version {shown_name(str(manifest.get('version')))[:20]}", "2.0")
    listed, weights = manifest.get("shards"), manifest.get("weight_map")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_SHARDS or manifest["shard_count"] != len(listed):
        found = len(listed) if isinstance(listed, list) else "no"
        raise _wrong(
            path,
            f"lists {found} shards, but its shard_count is {shown_name(str(manifest['shard_count']))[:20]}",
            "as many (1 to 1000)",
        )
    shards = sorted((_shard(item, path) for item in listed), key=lambda shard: shard.index)
    if [shard.index for shard in shards] != list(range(len(shards))):
        raise _wrong(path, f"numbers its shards {[shard.index for shard in shards][:10]}", f"0 to {len(shards) - 1}")
    promised = {name: shard.index for shard in shards for name in shard.tensors}
    if weights != promised or sum(len(shard.tensors) for shard in shards) != len(promised):
        raise _wrong(path, "has a weight_map that is not the shards' lists of tensors", "each tensor in one shard")
    return shards


def _shard(item: Any, path: Path) -> _Shard:
    if isinstance(item, Mapping):
        filename, index, tensors = item.get("filename"), item.get("index"), item.get("tensors")
        names = isinstance(tensors, list) and all(isinstance(name, str) for name in tensors)
        if isinstance(filename, str) and type(index) is int and names:
            return _Shard(filename, index, frozenset(tensors or ()))
    raise _wrong(path, f"lists a shard as {shown_name(str(item))[:60]}", "filename, index and tensors")


def _inside(manifest: Path, filename: str) -> Path:
    """The shard's path; a name stays in the manifest's folder, also after symbolic links."""
    try:
        return safe_path(manifest.parent, filename)
    except CheckpointError as error:
        raise _wrong(
            manifest, f"names the shard {filename[:80]!r}: {error.found}", "a file in its own folder"
        ) from None


def _require_promised(shard: _Shard, contents: Contents, manifest: Path) -> None:
    found = set(contents.tensors)
    if found != shard.tensors:
        odd = min(found ^ shard.tensors)
        where = "only in the file" if odd in found else "only in the manifest"
        raise _wrong(
            manifest, f"and {shard.filename} disagree: {shown_name(odd)} is {where}", "the same tensors in both"
        )


def _joined(path: Path, shards: list[_Shard], read: list[Contents]) -> Contents:
    metadata: dict[str, Any] = {}
    tensors: dict[str, TensorEntry] = {}
    warnings: list[str] = []
    for shard, contents in zip(shards, read, strict=True):
        for key, value in contents.metadata.items():
            known = metadata.get(key)
            if known is None:
                metadata[key] = value
            elif value is not None and key not in _OF_ONE_SHARD and not same(known, value):
                raise _wrong(path, f"joins shards whose metadata disagree on {key} ({shard.filename})", "one value")
        tensors |= {name: replace(entry, file=shard.index) for name, entry in contents.tensors.items()}
        warnings += [f"{shard.filename}: {text}" for text in contents.warnings if not isinstance(text, ShardWarning)]
    for key in ("sharding", "tensor_shapes"):
        metadata.pop(key, None)
    states = {name: [contents.checksums[name] for contents in read] for name in read[0].checksums}
    return Contents(
        format="apr",
        version=read[0].version,
        metadata=metadata,
        tensors=tensors,
        files=tuple(file for contents in read for file in contents.files),
        warnings=tuple(warnings),
        flags=tuple(dict.fromkeys(flag for contents in read for flag in contents.flags)),
        checksums={name: min(found, key=_WORST_FIRST.index) for name, found in states.items()},
    )


def _wrong(path: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        f"shard manifest {path} {found}", expected=expected, action="copy the manifest and its shards again"
    )
