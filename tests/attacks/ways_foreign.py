"""Malformed GGUF and safetensors files."""

from __future__ import annotations

import struct
from pathlib import Path

from registry import attack

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb_tests import gguf_bytes as g
from aprnb_tests import safetensors_bytes as s


@attack("a safetensors header beyond the file", TruncatedFile, "header", name="x.safetensors")
def _(folder: Path) -> bytes:
    return struct.pack("<Q", 90_000_000) + b"{}"


@attack("a safetensors header of millions of small values", CheckpointError, "values", name="x.safetensors")
def _(folder: Path) -> bytes:
    return s.file_of(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}")


@attack("safetensors payloads that overlap", CheckpointError, "overlaps", name="x.safetensors")
def _(folder: Path) -> bytes:
    return s.small_file(b=s.info("BF16", [2], 12, 16))


@attack("GGUF counts beyond the file", CheckpointError, "tensor count", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.header(2**60, 2**60)


@attack("GGUF strings beyond the file", CheckpointError, "ends|beyond|claims", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.header(0, 1) + struct.pack("<Q", 2**62) + b"key"


@attack("GGUF arrays in arrays in arrays", CheckpointError, "nest|array", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.header(0, 1) + g.text("k") + struct.pack("<I", g.ARRAY) + struct.pack("<IQ", g.ARRAY, 1) * 50_000


@attack("safetensors shapes that are not whole numbers", CheckpointError, "shape", name="x.safetensors")
def _(folder: Path) -> bytes:
    return s.small_file(a={"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]})


@attack("safetensors names that repeat", CheckpointError, "twice", name="x.safetensors")
def _(folder: Path) -> bytes:
    one = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    return s.file_of(b"{" + one + b"," + one + b"}", bytes(4))


@attack("GGUF arrays by the million", CheckpointError, "arrays", name="x.gguf")
def _(folder: Path) -> bytes:
    arrays = struct.pack("<IQ", g.U32, 0) * 500_000
    return g.header(0, 1) + g.text("k") + struct.pack("<IIQ", g.ARRAY, g.ARRAY, 500_000) + arrays


@attack("GGUF offsets that overflow", TruncatedFile, "inside tensor", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.whole(infos=[g.info("a", (4,), g.U8, 2**64 - 32)], data=bytes(64))


@attack("GGUF dimensions whose product overflows", CheckpointError, "dimensions", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.whole(infos=[g.info("a", (2**32, 2**32), 0, 0)], data=bytes(64))


@attack("a GGUF alignment of 0", CheckpointError, "alignment is 0", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.whole([g.pair("general.alignment", g.U32, 0)], [g.info("a", (4,), 0, 0)], bytes(64))
