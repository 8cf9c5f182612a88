"""The 64 header bytes of an `.apr` file.

    0  magic APR\\0 | 4 major | 5 minor | 6 flags u16 | 8 tensor_count u32 | 12 metadata_offset u64
    20 metadata_size u32 | 24 tensor_index_offset u64 | 32 data_offset u64 | 40 checksum u32 | 44 twenty reserved bytes

Little-endian, packed (the u64 fields are not 8-aligned). The checksum is CRC-32 over bytes 0–39 and 44–63.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb.formats.recognise import MAGIC, require_magic

HEADER_BYTES = 64
ALIGNMENT = 64
_LAYOUT = struct.Struct("<4sBBHIQIQQI20s")
MIN_ENTRY_BYTES = 20

COMPRESSED, ENCRYPTED, HAS_VOCAB, ROW_MAJOR, COLUMN_MAJOR = 0x0003, 0x0004, 0x0200, 0x0400, 0x0800
_FLAG_NAMES = {
    0x0001: "LZ4_COMPRESSED",
    0x0002: "ZSTD_COMPRESSED",
    0x0004: "ENCRYPTED",
    0x0008: "SIGNED",
    0x0010: "SHARDED",
    0x0020: "QUANTIZED",
    0x0040: "HAS_FILTERBANK",
    0x0080: "HAS_MODEL_CARD",
    0x0100: "STREAMING",
    0x0200: "HAS_VOCAB",
    0x0400: "LAYOUT_ROW_MAJOR",
    0x0800: "LAYOUT_COLUMN_MAJOR",
}


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields as stored; offsets and sizes in bytes."""

    version: tuple[int, ...]
    flags: int
    tensor_count: int
    metadata_offset: int
    metadata_size: int
    tensor_index_offset: int
    data_offset: int
    checksum: int

    @property
    def flag_names(self) -> tuple[str, ...]:
        known = tuple(name for bit, name in _FLAG_NAMES.items() if self.flags & bit)
        unknown = self.flags & ~sum(_FLAG_NAMES)
        return (*known, f"0x{unknown:04x}") if unknown else known


def align(size_bytes: int) -> int:
    """`size_bytes` rounded up to the format's alignment of 64."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def header_checksum(raw: bytes) -> int:
    return zlib.crc32(raw[44:64], zlib.crc32(raw[:40]))


def pack_header(header: Header) -> bytes:
    """64 bytes with the checksum computed, whatever `header.checksum` says."""
    fields = (MAGIC, *header.version, header.flags, header.tensor_count, header.metadata_offset, header.metadata_size)
    raw = _LAYOUT.pack(*fields, header.tensor_index_offset, header.data_offset, 0, bytes(20))
    return raw[:40] + struct.pack("<I", header_checksum(raw)) + raw[44:]


def read_header(raw: bytes, path: object, size_bytes: int) -> Header:
    """The header in `raw`, the file's first 64 bytes (fewer where it is shorter), checked against its length."""
    require_magic(raw, path)
    if len(raw) < HEADER_BYTES:
        raise TruncatedFile(
            f"{path} ends at byte {len(raw)}, inside the header",
            expected="64 header bytes",
            action="copy or download the file again",
        )
    header = Header(tuple(raw[4:6]), *_LAYOUT.unpack(raw)[3:10])
    _check_checksum(header, raw, path)
    _check_version_and_flags(header, path)
    _check_offsets(header, path, size_bytes)
    return header


def _check_checksum(header: Header, raw: bytes, path: object) -> None:
    computed = header_checksum(raw)
    if header.checksum not in (computed, 0):
        raise CheckpointError(
            f"header checksum of {path} is {header.checksum:08x}",
            expected=f"{computed:08x} for its 60 other header bytes",
            where="byte 40",
            action="the header is damaged: copy or download the file again",
        )


def _check_version_and_flags(header: Header, path: object) -> None:
    if header.version[0] != 2:
        raise CheckpointError(f"{path} has format version {header.version[0]}.{header.version[1]}", expected="2.x")
    if header.flags & ENCRYPTED:
        raise CheckpointError(f"{path} is encrypted (flag 0x0004)", action="decrypt it with the tool that wrote it")
    if header.flags & COLUMN_MAJOR:
        raise CheckpointError(
            f"{path} stores its tensors column-major (flag 0x0800)", expected="row-major", action="import it again"
        )


def _check_offsets(header: Header, path: object, size_bytes: int) -> None:
    metadata_end = header.metadata_offset + header.metadata_size
    order = (
        ("metadata", HEADER_BYTES, header.metadata_offset),
        ("tensor index", metadata_end, header.tensor_index_offset),
        ("tensor data", header.tensor_index_offset, header.data_offset),
    )
    for what, earliest, offset in order:
        if offset < earliest:
            raise CheckpointError(
                f"{what} of {path} starts at byte {offset:,}", expected=f"byte {earliest:,} or later", where="header"
            )
    if header.data_offset > size_bytes:
        inside = "the metadata" if metadata_end > size_bytes else "the tensor index"
        raise TruncatedFile(
            f"{path} ends at byte {size_bytes:,}, inside {inside}",
            expected=f"tensor data from byte {header.data_offset:,}",
            action="copy or download the file again",
        )
    room = header.data_offset - header.tensor_index_offset
    if header.tensor_count * MIN_ENTRY_BYTES > room:
        raise CheckpointError(
            f"{path} claims {header.tensor_count:,} tensors in an index of {room:,} bytes",
            expected=f"at most {room // MIN_ENTRY_BYTES:,}",
            where="byte 8",
        )
