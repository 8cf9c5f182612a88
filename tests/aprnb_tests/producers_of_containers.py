"""Other containers: packed files, and legacy containers, which are rejected with their header."""

from __future__ import annotations

import json
import struct

from aprnb_tests.apr_bytes import header, pad
from aprnb_tests.producers import METADATA, Case, changed, whole


def lz4(data: bytes, claimed: int | None = None) -> bytes:
    """u32 size and one LZ4 block of literals only: a token, the length in steps of 255, the bytes."""
    rest = len(data) - 15
    length = b"\xff" * (rest // 255) + bytes((rest % 255,))
    return struct.pack("<I", len(data) if claimed is None else claimed) + b"\xf0" + length + data


def zstandard(data: bytes, claimed: int | None = None) -> bytes:
    """A frame of one raw block; its size is stated in the frame header unless `claimed` is −1."""
    block = struct.pack("<I", 1 | len(data) << 3)[:3] + data
    if claimed == -1:
        return b"\x28\xb5\x2f\xfd\0\x50" + block
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data) if claimed is None else claimed) + block


def packed(flags: int, block: bytes) -> bytes:
    """The header of a whole file before a block."""
    return whole(flags=0x0400 | flags)[:64] + block


REST = whole()[64:]
LZ4_FILE, ZSTANDARD_FILE = packed(1, lz4(REST)), packed(2, zstandard(REST))

PACKED = [
    Case("LZ4", "one reader of the format packs everything after the header", packed(1, lz4(whole(flags=0x0401)[64:]))),
    Case("Zstandard", "the same with a standard frame", packed(2, zstandard(whole(flags=0x0402)[64:]))),
    Case("Zstandard, no size", "frames need not state it", packed(2, zstandard(whole(flags=0x0402)[64:], -1))),
    Case("LZ4, 2 GB", "malicious", packed(1, lz4(REST, 0x7E000000)), rejected=r"unpacks to 2,113,929,216.*byte 64"),
    Case("LZ4, 100 bytes", "the header needs more", packed(1, lz4(REST, 100)), rejected=r"unpacks to 100 bytes"),
    Case("LZ4 cut short", "a torn file", LZ4_FILE[:-50], rejected=r"cannot be unpacked.*byte 64"),
    Case("Zstandard, 1 GB", "malicious", packed(2, zstandard(REST, 1 << 30)), rejected=r"unpacks to 1,073,741,824"),
    Case("Zstandard that is none", "damage", packed(2, b"\x28\xb5" + bytes(90)), rejected=r"be unpacked.*byte 64"),
]  # fmt: skip


def json_weights() -> bytes:
    """A converter's first version: metadata, then an index in JSON without padding, then a transformer as JSON."""
    text, payload = json.dumps(METADATA).encode(), b'{"config":{}}'
    index = json.dumps(
        [{"name": "weights", "dtype": "json", "shape": [13], "offset": 0, "size": 13}], separators=(",", ":")
    ).encode()
    start = 64 + len(pad(text))
    front = header(1, len(text), start, start + len(index), flags=0)
    return front[:40] + bytes(4) + front[44:] + pad(text) + index + payload


RELATIVES = [
    Case(
        "version 1",
        "the old container of other models",
        b"APRN\1\0" + struct.pack("<HIIIBBB", 1, 74, 61, 61, 0, 0, 85) + bytes(9) + bytes(139),
        rejected=r"old `\.apr` container \(magic APRN\), version 1",
        facts={
            "model type": "LinearRegression",
            "quality": "85",
            "compression": "none",
            "payload bytes": "61, 61 unpacked",
        },
    ),
    Case(
        "whisper",
        "a speech model's own container",
        b"APR1" + struct.pack("<HBBBHB10I", 1, 0, 2, 0, 167, 3, 51865, 1500, 384, 6, 4, 448, 384, 6, 4, 80) + bytes(60),
        rejected="old whisper container",
        facts={"quantization": "Int8", "tensors": "167", "holds": "vocabulary, filterbank", "n_mels": "80"},
    ),
    Case(
        "JSON index",
        "the first container with JSON",
        b"APR1" + struct.pack("<I", 17) + b'{"name":"x","y":1}' + bytes(60),
        rejected=r"JSON index \(magic APR1\)",
        facts={"metadata bytes": "17 (JSON)"},
    ),
    Case(
        "packed JSON index, LZ4",
        "the same, packed, under the draft's magic",
        b"APR2\1" + struct.pack("<I", 4096) + bytes(80),
        rejected=r"packed container with a JSON index \(magic APR2",
        facts={"compression": "LZ4", "unpacked bytes": "4,096"},
    ),
    Case(
        "packed JSON index, Zstandard",
        "byte 4 is 2 as in the draft; the frame's magic tells",
        b"APR2\2" + struct.pack("<I", 4096) + b"\x28\xb5\x2f\xfd" + bytes(80),
        rejected=r"packed container with a JSON index \(magic APR2",
        facts={"compression": "Zstandard"},
    ),
    Case(
        "private layout",
        "one program's memory-mapped transformer",
        b"APR\0\1\0\0\0" + struct.pack("<7IffI", 64, 2, 4, 2, 320, 128, 512, 1e6, 1e-6, 64) + bytes(300),
        rejected="private layout of one program",
        facts={"hidden_dim": "64", "vocab_size": "320", "rope_theta": "1e+06", "tensor data": "byte 64"},
    ),
    Case(
        "weights as JSON",
        "a converter's first version",
        json_weights(),
        rejected=r"transformer written as JSON text",
        facts={"tensors": "1 (JSON)"},
    ),
    Case(
        "encrypted",
        "a reserved flag",
        whole(flags=0x0404),
        rejected=r"encrypted \(flag 0x0004\)",
        facts={"flags": "ENCRYPTED, LAYOUT_ROW_MAJOR", "tensors": "2", "tensor data": "byte 192"},
    ),
    Case(
        "column-major",
        "a flag that readers reject",
        whole(flags=0x0800),
        rejected=r"column-major",
        facts={"flags": "LAYOUT_COLUMN_MAJOR", "metadata bytes": "21 from byte 64"},
    ),
    Case("version 3", "the future", changed(whole(), 4, b"\3"), rejected=r"version 3\.0.*byte 4"),
]
