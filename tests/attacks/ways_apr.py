"""Malformed header, index, data and container of an `.apr` file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from registry import ENTRY, attack, file_of

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb_tests import apr_bytes as b


def number(at: int, form: str, value: int) -> bytes:
    data = bytearray(b.small_file())
    struct.pack_into(form, data, at, value)
    return b.with_checksum(bytes(data))


@attack("a tensor count beyond the file", CheckpointError, "claims 4,294,967,295 tensors")
def _(folder: Path) -> bytes:
    return number(8, "<I", 0xFFFFFFFF)  # room for four billion entries would be reserved


@attack("offsets that overflow", TruncatedFile, "first one missing", has_byte=True)
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 2**64 - 8, 16))  # offset + size wraps round to 8


@attack("sections in the wrong place", CheckpointError, "starts at byte|ends at byte")
def _(folder: Path) -> bytes:
    return number(32, "<Q", 2**63)  # the data section behind the end of every disk


@attack("overlapping payloads", CheckpointError, "overlap")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, b.entry("b", 0, (4,), 8, 16))


@attack("sizes that disagree with shapes", CheckpointError, "takes 12 bytes")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 12))


@attack("255 dimensions", CheckpointError, "255 dimensions")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (1,) * 255, 0, 4))


@attack("dimensions whose product overflows", CheckpointError, "claims shape")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (2**32, 2**32), 0, 16))  # 2**64 elements are 0 in 64 bits


@attack("duplicate names", CheckpointError, "twice")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, b.entry("a", 0, (4,), 0, 16))


@attack("names with control characters", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("a\x1b[2J\x07\r\nb", 0, (4,), 0, 16))


@attack("names with path separators", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("../../../etc/passwd", 0, (4,), 0, 16))


@attack("names that are not UTF-8", CheckpointError, "not UTF-8")
def _(folder: Path) -> bytes:
    return file_of(b.entry("\udcff\udcfe", 0, (4,), 0, 16))


@attack("a claimed decompressed size", CheckpointError, "claims|decompress|compress")
def _(folder: Path) -> bytes:
    front = bytearray(b.front({}, [b.entry("a", 0, (4,), 0, 16)], flags=0x0401))
    return bytes(front[:64]) + struct.pack("<I", 0xFFFFFFF0) + b"\x1f" * 40  # 4 GB out of 40 bytes of LZ4


@attack("a wrong header checksum", CheckpointError, "checksum")
def _(folder: Path) -> bytes:
    data = bytearray(b.small_file())
    data[6] ^= 1
    return bytes(data)


@attack("NaN scales", None)
def _(folder: Path) -> bytes:
    block = struct.pack("<H", 0x7E00) + bytes(range(16))  # AprQ4 with a NaN for its f16 scale
    return file_of(b.entry("a", 128, (32,), 0, 18), data=b.pad(block))


@attack("a head without bytes, without an embedding", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("lm_head.weight", 0, (4, 4), 0, 0), b.entry("x", 0, (4,), 0, 16))  # a tie to nothing


@attack("a pickle under the checkpoint's name", CheckpointError, "never opened", has_byte=False)
def _(folder: Path) -> bytes:
    return b"\x80\x04cos\nsystem\n(S'true'\ntR." + bytes(80)


@attack("a file that is torn", TruncatedFile, "first one missing|ends at byte")
def _(folder: Path) -> bytes:
    return b.small_file()[:-100]


@attack("a data byte that changed", CheckpointError, "footer checksum")
def _(folder: Path) -> bytes:
    body = b.small_file()[:-4]
    return body + struct.pack("<I", zlib.crc32(body) ^ 1)  # found where the reader is asked to verify


@attack("more tensors than the file can hold", CheckpointError, "lists 200,000 tensors")
def _(folder: Path) -> bytes:
    return file_of(*(b.entry(f"{n:06}", 0, (0,), 0, 0) for n in range(200_000)), data=b"")  # 300 bytes of memory each


@attack("names of 65,000 bytes", None, "more characters")
def _(folder: Path) -> bytes:
    names = (f"{n:03}" + "\u202e<" * 16_000 for n in range(200))  # 12 MB that would be 40 MB of HTML
    return file_of(*(b.entry(name, 0, (4,), 64 * n, 16) for n, name in enumerate(names)), data=bytes(64 * 200))


@attack("a block that unpacks to 500 times its size", CheckpointError, "unpacks to")
def _(folder: Path) -> bytes:
    import lz4.block

    front = b.front({}, [ENTRY], flags=0x0401)
    block = front[64:] + bytes(200_000_000)
    packed: bytes = lz4.block.compress(block, store_size=False)
    return front[:64] + struct.pack("<I", len(block)) + packed


@attack("a frame that unpacks to more than it says", CheckpointError, "unpacks to")
def _(folder: Path) -> bytes:
    import zstandard

    front = b.front({}, [ENTRY], flags=0x0402)
    stream = zstandard.ZstdCompressor().compressobj()  # a stream's frame claims no size
    return front[:64] + stream.compress(front[64:] + bytes(200_000_000)) + stream.flush()
