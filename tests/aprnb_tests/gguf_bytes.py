"""Writes valid and malformed GGUF files byte by byte, so that the tests of the reader do not depend on a library."""

from __future__ import annotations

import struct
from collections.abc import Iterable

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_LETTERS = "BbHhIifB__Qqd"


def text(value: str | bytes, version: int = 3) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<I" if version == 1 else "<Q", len(raw)) + raw


def payload(kind: int, value: object, version: int = 3) -> bytes:
    """A value without its type."""
    if kind == STRING:
        return text(value, version)  # type: ignore[arg-type]  # the kind says the type
    if kind == ARRAY:
        element, parts = value  # type: ignore[misc]  # as above
        count = struct.pack("<I" if version == 1 else "<Q", len(parts))
        return struct.pack("<I", element) + count + b"".join(payload(element, part, version) for part in parts)
    return struct.pack(f"<{_LETTERS[kind]}", value)


def pair(key: str | bytes, kind: int, value: object, version: int = 3) -> bytes:
    return text(key, version) + struct.pack("<I", kind) + payload(kind, value, version)


def info(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int, version: int = 3) -> bytes:
    """A tensor info; `dims` as GGUF lists them, fastest first."""
    packed = b"".join(struct.pack("<I" if version == 1 else "<Q", dim) for dim in dims)
    return text(name, version) + struct.pack("<I", len(dims)) + packed + struct.pack("<IQ", kind, offset)


def header(tensors: int, pairs: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<III" if version == 1 else "<IQQ", version, tensors, pairs)


def pad(data: bytes, alignment: int = 32) -> bytes:
    return data + bytes(-len(data) % alignment)


def whole(
    pairs: Iterable[bytes] = (), infos: Iterable[bytes] = (), data: bytes = b"", version: int = 3, alignment: int = 32
) -> bytes:
    """A file with right counts over whatever pairs, infos and data it is given."""
    pairs, infos = list(pairs), list(infos)
    front = header(len(infos), len(pairs), version) + b"".join(pairs) + b"".join(infos)
    return pad(front, alignment) + data if infos else front


def small_file(version: int = 3) -> bytes:
    """Two F32 tensors, a matrix of two rows of three and a vector, and an architecture."""
    return whole(
        [pair("general.architecture", STRING, "llama", version), pair("llama.block_count", U32, 2, version)],
        [info("a", (3, 2), 0, 0, version), info("b", (4,), 0, 32, version)],
        struct.pack("<6f8x4f", *range(6), *range(4)),
        version,
    )
