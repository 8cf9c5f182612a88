"""The 64 header bytes of an `.apr` file.

    0  magic APR\\0 | 4 major | 5 minor | 6 flags u16 | 8 tensor_count u32 | 12 metadata_offset u64
    20 metadata_size u32 | 24 tensor_index_offset u64 | 32 data_offset u64 | 40 checksum u32 | 44 twenty reserved bytes

Little-endian, packed (the u64 fields are not 8-aligned). The checksum is CRC-32 over bytes 0–39 and 44–63. Early
writers put the same layout under the magic APR2, or under APRN with 2 in byte 4.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from aprnb.errors import CheckpointError, TruncatedFile, UnsupportedFormat
from aprnb.formats.apr.magic import MAGIC, require_magic

HEADER_BYTES = 64
ALIGNMENT = 64
USUAL_METADATA_BYTES, MAX_METADATA_BYTES = 16 << 20, 256 << 20
"""The format's own limit, which no writer enforces, and the most that is read."""
_LAYOUT = struct.Struct("<4sBBHIQIQQI20s")
MIN_ENTRY_BYTES = 20
MAX_TENSORS, BYTES_PER_TENSOR = 1 << 14, 256
"""Tensors that any file may list (each takes about 300 bytes of memory), and one more for so many bytes of it."""

LZ4, COMPRESSED, ENCRYPTED, SHARDED, HAS_VOCAB = 0x0001, 0x0003, 0x0004, 0x0010, 0x0200
ROW_MAJOR, COLUMN_MAJOR = 0x0400, 0x0800
FLAG_NAMES = {
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
    reserved: bytes = bytes(20)
    magic: bytes = MAGIC

    @property
    def flag_names(self) -> tuple[str, ...]:
        known = tuple(name for bit, name in FLAG_NAMES.items() if self.flags & bit)
        unknown = self.flags & ~sum(FLAG_NAMES)
        return (*known, f"0x{unknown:04x}") if unknown else known

    def require_inside(self, path: object, size_bytes: int) -> None:
        """Raises where the file ends before the tensor data start, or lists more tensors than its size justifies."""
        most = MAX_TENSORS + size_bytes // BYTES_PER_TENSOR
        if self.tensor_count > most:
            raise CheckpointError(
                f"{path} lists {self.tensor_count:,} tensors",
                expected=f"at most {most:,} in a file of {size_bytes:,} bytes",
                where="byte 8",
            )
        if self.data_offset > size_bytes:
            inside = "the metadata" if self.metadata_offset + self.metadata_size > size_bytes else "the tensor index"
            raise TruncatedFile(
                f"{path} ends at byte {size_bytes:,}, inside {inside}",
                expected=f"tensor data from byte {self.data_offset:,}",
            )


def align(size_bytes: int) -> int:
    """`size_bytes` rounded up to the format's alignment of 64."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def header_checksum(raw: bytes) -> int:
    return zlib.crc32(raw[44:64], zlib.crc32(raw[:40]))


def pack_header(header: Header) -> bytes:
    """The 64 bytes, with a computed checksum in place of `header.checksum`."""
    fields = (header.magic, *header.version, header.flags, header.tensor_count)
    places = (header.metadata_offset, header.metadata_size, header.tensor_index_offset, header.data_offset)
    raw = _LAYOUT.pack(*fields, *places, 0, bytes(20))
    return raw[:40] + struct.pack("<I", header_checksum(raw)) + raw[44:]


def read_header(raw: bytes, path: object) -> Header:
    """The header in `raw`, the file's first 64 bytes (fewer where it is shorter), checked for consistency."""
    require_magic(raw, path)
    if len(raw) < HEADER_BYTES:
        raise TruncatedFile(f"{path} ends at byte {len(raw)}, inside the header", expected="64 header bytes")
    magic, major, minor, *fields = _LAYOUT.unpack(raw)
    header = Header((major, minor), *(*fields, magic))
    _check_checksum(header, raw, path)
    _check_version_and_flags(header, path)
    _check_offsets(header, path)
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
        raise CheckpointError(
            f"{path} has format version {header.version[0]}.{header.version[1]}", expected="2.x", where="byte 4"
        )
    if header.flags & ENCRYPTED:
        raise UnsupportedFormat(
            f"{path} is encrypted (flag 0x0004)",
            where="byte 6",
            action="decrypt it with the tool that wrote it",
            facts=_facts(header),
        )
    if header.flags & COLUMN_MAJOR:
        raise UnsupportedFormat(
            f"{path} stores its tensors column-major (flag 0x0800)",
            expected="row-major",
            where="byte 7",
            action="import it again",
            facts=_facts(header),
        )


def _facts(header: Header) -> dict[str, str]:
    """The header's values as text, for a file that is not read any further."""
    return {
        "version": ".".join(map(str, header.version)),
        "flags": ", ".join(header.flag_names),
        "tensors": f"{header.tensor_count:,}",
        "metadata bytes": f"{header.metadata_size:,} from byte {header.metadata_offset:,}",
        "tensor index": f"byte {header.tensor_index_offset:,}",
        "tensor data": f"byte {header.data_offset:,}",
    }


def header_warnings(header: Header) -> list[str]:
    """Warnings, each with its byte, for values that are missing or unusual but have only one meaning."""
    known_flags = sum(FLAG_NAMES)
    found = (
        (header.magic != MAGIC, f"magic is {header.magic.decode()} (byte 0): an early draft of the same layout"),
        (header.version[1] != 0, f"format version is 2.{header.version[1]} (byte 5): read as 2.0"),
        (
            not header.flags & (ROW_MAJOR | COLUMN_MAJOR),
            "flags name no layout (byte 6): read as row-major, as its writers store it",
        ),
        (
            header.flags & ~known_flags != 0,
            f"flags 0x{header.flags & ~known_flags:04x} are not defined (byte 6): ignored",
        ),
        (
            header.metadata_offset != HEADER_BYTES,
            f"metadata starts at byte {header.metadata_offset:,} (byte 12), not at 64: the bytes between are not read",
        ),
        (
            header.metadata_size > USUAL_METADATA_BYTES,
            f"metadata takes {header.metadata_size:,} bytes (byte 20), more than the format's 16 MiB",
        ),
        (
            header.tensor_index_offset % ALIGNMENT != 0,
            f"tensor index starts at byte {header.tensor_index_offset:,} (byte 24), which is not a multiple of 64",
        ),
        (
            header.data_offset % ALIGNMENT != 0,
            f"tensor data starts at byte {header.data_offset:,} (byte 32), which is not a multiple of 64",
        ),
        (header.checksum == 0, "header checksum is 0 (byte 40): the writer did not set it"),
        (
            any(header.reserved),
            f"reserved header bytes are not zero (byte {64 - len(header.reserved.lstrip(bytes(1)))}): ignored",
        ),
    )
    return [text for odd, text in found if odd]


def _check_offsets(header: Header, path: object) -> None:
    metadata_end = header.metadata_offset + header.metadata_size
    order = (
        ("metadata", 12, HEADER_BYTES, header.metadata_offset),
        ("tensor index", 24, metadata_end, header.tensor_index_offset),
        ("tensor data", 32, header.tensor_index_offset, header.data_offset),
    )
    for what, at, earliest, offset in order:
        if offset < earliest:
            raise CheckpointError(
                f"{what} of {path} starts at byte {offset:,}",
                expected=f"byte {earliest:,} or later",
                where=f"header byte {at}",
            )
    if header.metadata_size > MAX_METADATA_BYTES:
        raise CheckpointError(
            f"{path} has {header.metadata_size:,} bytes of metadata",
            expected=f"at most {MAX_METADATA_BYTES:,}",
            where="byte 20",
        )
    room = header.data_offset - header.tensor_index_offset
    if header.tensor_count * MIN_ENTRY_BYTES > room:
        raise CheckpointError(
            f"{path} claims {header.tensor_count:,} tensors in an index of {room:,} bytes",
            expected=f"at most {room // MIN_ENTRY_BYTES:,}",
            where="byte 8",
        )
