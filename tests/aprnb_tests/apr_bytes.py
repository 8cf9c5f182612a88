"""Writes valid and malformed `.apr` files byte by byte, so that the tests of the reader do not depend on the writer."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Tensor = tuple[str, int, tuple[int, ...], int]
"""Name, dtype code, shape, size in bytes."""


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def header(
    count: int, metadata_size: int, index_offset: int, data_offset: int, *, flags: int = 0x0400, version: int = 2
) -> bytes:
    front = struct.pack("<4sBBHIQIQQ", b"APR\0", version, 0, flags, count, 64, metadata_size, index_offset, data_offset)
    checksum = zlib.crc32(front + bytes(20))
    return front + struct.pack("<I", checksum) + bytes(20)


def entry(name: str, code: int, shape: tuple[int, ...], offset: int, size: int) -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return struct.pack("<H", len(raw)) + raw + bytes((code, len(shape))) + dims + struct.pack("<QQ", offset, size)


def front(metadata: Mapping[str, Any] | bytes, entries: Iterable[bytes], **options: int) -> bytes:
    """Header, metadata and index; the data section starts where it ends."""
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata, separators=(",", ":")).encode()
    packed = list(entries)
    index_offset = 64 + len(pad(text))
    data_offset = index_offset + len(pad(b"".join(packed)))
    return header(len(packed), len(text), index_offset, data_offset, **options) + pad(text) + pad(b"".join(packed))


def with_checksum(data: bytes) -> bytes:
    """The same bytes with a right header checksum, after someone changed the header."""
    checksum = zlib.crc32(data[44:64], zlib.crc32(data[:40]))
    return data[:40] + struct.pack("<I", checksum) + data[44:]


def with_metadata(data: bytes, metadata: Mapping[str, Any] | bytes) -> bytes:
    """The same tensors under other metadata; the writer, which rejects wrong ones, has no part in it."""
    count, _, _, index_offset, data_offset = struct.unpack_from("<IQIQQ", data, 8)
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata, separators=(",", ":")).encode()
    index, start = data[index_offset:data_offset], 64 + len(pad(text))
    body = header(count, len(text), start, start + len(index)) + pad(text) + index + data[data_offset:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def small_file(tensors: Mapping[str, bytes] | None = None, metadata: Mapping[str, Any] | None = None) -> bytes:
    """A whole file of F32 vectors, footer included."""
    tensors = tensors if tensors is not None else {"a": struct.pack("<4f", 1, 2, 3, 4), "b": struct.pack("<2f", 5, 6)}
    entries, data = [], b""
    for name, payload in tensors.items():
        entries.append(entry(name, 0, (len(payload) // 4,), len(data), len(payload)))
        data += pad(payload)
    body = front(metadata or {"model_type": "test"}, entries) + data
    return body + struct.pack("<I", zlib.crc32(body))


def sparse_file(path: Path, metadata: Mapping[str, Any], tensors: Iterable[Tensor]) -> Path:
    """A real header and index over holes: gigabytes of zeros that take no room on the disk."""
    entries, offset = [], 0
    for name, code, shape, size in sorted(tensors):
        entries.append(entry(name, code, shape, offset, size))
        offset += size + (-size % 64)
    start = front(metadata, entries)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + offset + 4)
    return path
