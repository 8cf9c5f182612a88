"""Reads header, metadata and tensor index of an `.apr` file, all checked before any tensor is returned."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from aprnb.errors import CheckpointError, UnsupportedFormat
from aprnb.formats.apr.compressed import unpack
from aprnb.formats.apr.extents import check_extents
from aprnb.formats.apr.header import COMPRESSED, HEADER_BYTES, SHARDED, Header, header_warnings, read_header
from aprnb.formats.apr.index import read_index
from aprnb.formats.apr.metadata_checks import check_metadata
from aprnb.formats.contents import Checksum, Contents, DataFile, ShardWarning
from aprnb.formats.metadata import read_metadata
from aprnb.formats.source import ByteSource
from aprnb.printable import shown_name

_FOOTER_BYTES = 4
_FOOTER_CHUNK_BYTES = 4 << 20


def read_apr(source: ByteSource, verify: bool) -> Contents:
    """The file's contents; `verify` also checks the footer checksum over all of it.

    Raises CheckpointError for an invalid header, metadata or index.
    """
    head = bytes(source.read(0, min(HEADER_BYTES, source.size_bytes), "the header"))
    header = read_header(head, source.path)
    warnings = header_warnings(header)
    if header.flags & COMPRESSED:
        if _is_plain(source, header):
            warnings.append("the flags say compressed (byte 6), but the bytes are not: read as they are")
        else:
            source = unpack(source, head, header)
    header.require_inside(source.path, source.size_bytes)
    metadata, odd_metadata = _read_metadata(source, header)
    room = header.data_offset - header.tensor_index_offset
    index = bytes(source.read(header.tensor_index_offset, room, "the tensor index"))
    _require_binary_index(index, header, source.path)
    tensors, odd_entries = read_index(index, header, source.path, _model_type(metadata))
    end, odd_extents = check_extents(tensors.values(), header.data_offset, source.path, source.size_bytes)
    footer, odd_end = _read_end(source, end, verify)
    return Contents(
        format="apr",
        version=".".join(map(str, header.version)),
        metadata=metadata,
        tensors=tensors,
        files=(DataFile(source, header.data_offset),),
        warnings=(*warnings, *odd_metadata, *_shard(metadata, header), *odd_entries, *odd_extents, *odd_end),
        flags=header.flag_names,
        checksums={"header": "ok" if header.checksum else "absent", "footer": footer},
    )


def _is_plain(source: ByteSource, header: Header) -> bool:
    """Whether the metadata start where the header says, whatever the flag says about compression."""
    end = header.metadata_offset + header.metadata_size
    if header.metadata_size < 2 or end > source.size_bytes:
        return False
    first, last = (source.read(at, 1, "the metadata") for at in (header.metadata_offset, end - 1))
    return first == b"{" and last == b"}"


def _read_metadata(source: ByteSource, header: Header) -> tuple[dict[str, Any], list[str]]:
    at, path = header.metadata_offset, source.path
    if header.metadata_size == 0:
        return {}, ["the file has no metadata: their size is 0 (byte 20)"]

    def read() -> bytearray:
        return source.read(at, header.metadata_size, "the metadata")

    metadata, repeated = read_metadata(read, path, at, source.size_bytes)
    return metadata, check_metadata(metadata, repeated, read, path, at)


def _model_type(metadata: Mapping[str, Any]) -> str | None:
    stated = metadata.get("model_type")
    return None if stated is None else str(stated)[:64]


def _require_binary_index(index: bytes, header: Header, path: object) -> None:
    """Rejects files of an early converter, whose index and only tensor are JSON: a transformer as text."""
    if header.tensor_count == 1 and index.startswith(b"[{") and b'"json"' in index:
        raise UnsupportedFormat(
            f"{path} is a transformer written as JSON text (one tensor `weights`, index in JSON)",
            where=f"byte {header.tensor_index_offset:,}",
            action="import the original model again",
            facts={"version": "2.0", "tensors": "1 (JSON)", "tensor data": f"byte {header.data_offset:,}"},
        )


def _shard(metadata: Mapping[str, Any], header: Header) -> list[str]:
    """The warning for a shard: a complete file with a part of the model's tensors."""
    sharding = metadata.get("sharding")
    if not isinstance(sharding, Mapping):
        return ["the flags say sharded (byte 6), but the metadata name no shards"] if header.flags & SHARDED else []
    count, index = (shown_name(str(sharding.get(key)))[:20] for key in ("shard_count", "shard_index"))
    if count == "1":
        return []
    return [
        ShardWarning(
            f"this is one shard of several (metadata from byte {header.metadata_offset:,}: "
            f"shard_index {index} of {count}): the other tensors are in other files; open the manifest to read all"
        )
    ]


def _read_end(source: ByteSource, end: int, verify: bool) -> tuple[Checksum, list[str]]:
    """State of the footer after the data, and warnings about it; raises for a wrong checksum."""
    left = source.size_bytes - end
    if left < _FOOTER_BYTES:
        warnings = [f"the footer checksum is missing (byte {end:,}): the file cannot be checked for completeness"]
        if left:
            warnings.append(f"{left} bytes follow the tensor data (byte {end:,})")
        return "absent", warnings
    tail = end + _FOOTER_BYTES
    warnings = [f"{left - _FOOTER_BYTES:,} bytes follow the footer (byte {tail:,}): not read"] if left > 4 else []
    if not verify:
        return "not checked", warnings
    stored = int.from_bytes(source.read(end, _FOOTER_BYTES, "the footer"), "little")
    computed = _checksum(source, end)
    if stored != computed:
        raise CheckpointError(
            f"footer checksum of {source.path} is {stored:08x}",
            expected=f"{computed:08x} for the bytes before it",
            where=f"byte {end:,}",
            action="the file is damaged: copy or download it again",
        )
    return "ok", warnings


def _checksum(source: ByteSource, end: int) -> int:
    checksum, position = 0, 0
    while position < end:
        size = min(_FOOTER_CHUNK_BYTES, end - position)
        checksum = zlib.crc32(source.read(position, size, "the file"), checksum)
        position += size
    return checksum
