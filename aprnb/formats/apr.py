"""Reads the front of an `.apr` file: header, metadata and tensor index, checked whole before a tensor is handed out."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

from aprnb.errors import CheckpointError
from aprnb.formats.contents import Contents, DataFile, TensorEntry
from aprnb.formats.header import COLUMN_MAJOR, COMPRESSED, HEADER_BYTES, ROW_MAJOR, Header, align, read_header
from aprnb.formats.index import read_index
from aprnb.formats.metadata import read_metadata
from aprnb.formats.source import ByteSource

_FOOTER_CHUNK_BYTES = 4 << 20


def read_apr(source: ByteSource, verify: bool) -> Contents:
    """The file's contents; `verify` also checks the footer checksum over all of it.

    Raises CheckpointError for a header, metadata or index that do not hold together.
    """
    head = source.read(0, min(HEADER_BYTES, source.size_bytes), "the header")
    header = read_header(bytes(head), source.path, source.size_bytes)
    raw = source.read(header.metadata_offset, header.metadata_size, "the metadata")
    if header.flags & COMPRESSED and raw[:1] != b"{":
        raise CheckpointError(f"{source.path} is compressed (flag 0x{header.flags & COMPRESSED:04x})")
    metadata, oddities = read_metadata(raw, source.path, header.metadata_offset)
    room = header.data_offset - header.tensor_index_offset
    index = source.read(header.tensor_index_offset, room, "the tensor index")
    tensors = read_index(bytes(index), header, source.path, source.size_bytes)
    return Contents(
        format="apr",
        version=".".join(map(str, header.version)),
        metadata=metadata,
        tensors=tensors,
        files=(DataFile(source, header.data_offset),),
        warnings=(*_header_warnings(header), *oddities, *_index_warnings(tensors)),
        flags=header.flag_names,
        checksums={
            "header": "ok" if header.checksum else "absent",
            "footer": _footer_state(source, header, tensors.values(), verify),
        },
    )


def _footer_state(source: ByteSource, header: Header, entries: Iterable[TensorEntry], verify: bool) -> str:
    """`ok`, `absent` or `not checked`; raises where a verified checksum is wrong."""
    end = header.data_offset + max((align(entry.offset + entry.size_bytes) for entry in entries), default=0)
    if source.size_bytes < end + 4:
        return "absent"
    if not verify:
        return "not checked"
    checksum, position = 0, 0
    while position < source.size_bytes - 4:
        size = min(_FOOTER_CHUNK_BYTES, source.size_bytes - 4 - position)
        checksum = zlib.crc32(source.read(position, size, "the file"), checksum)
        position += size
    stored = int.from_bytes(source.read(source.size_bytes - 4, 4, "the footer"), "little")
    if stored != checksum:
        raise CheckpointError(
            f"footer checksum of {source.path} is {stored:08x}",
            expected=f"{checksum:08x} for the bytes before it",
            where=f"byte {source.size_bytes - 4:,}",
            action="the file is damaged: copy or download it again",
        )
    return "ok"


def _header_warnings(header: Header) -> list[str]:
    warnings = []
    if header.checksum == 0:
        warnings.append("header checksum is 0 (byte 40): its writer left it out")
    if not header.flags & (ROW_MAJOR | COLUMN_MAJOR):
        warnings.append("flags name no layout (bytes 6–7): read as row-major, as its writers meant it")
    return warnings


def _index_warnings(tensors: Mapping[str, TensorEntry]) -> list[str]:
    names = list(tensors)
    return [] if names == sorted(names) else ["tensor index is not sorted by name"]
