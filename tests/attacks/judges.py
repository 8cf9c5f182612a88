"""Independent readers of the same bytes, without code of the package, to compare results with."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod

from mutations import entry_places

import aprnb

Row = tuple[tuple[int, ...], int, set[int]]
"""Shape (outermost first), first byte in the file, and every size that the stored type can have for the shape."""

ELEMENT_BYTES = {0: 4, 1: 2, 3: 8, 4: 4, 5: 8, 6: 1, 7: 1, 30: 2}
BLOCKS = {2: (32, 18), 8: (32, 18), 128: (32, 18), 12: (256, 144), 14: (256, 210), 13: (256, 176)}
SAFETENSORS_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
GGML = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
        10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 24: (1, 1),
        25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2)}  # fmt: skip
"""Elements and bytes of a block, by ggml's number."""
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class WrongVerdict(AssertionError):
    """A green contract over bytes that hold something else."""


def hold_to_bytes(checkpoint: aprnb.Checkpoint, data: bytes, green: bool) -> None:
    """Every entry against an index read here; raises WrongVerdict."""
    if checkpoint.format == "apr" and data[:1] == b"{":
        return  # a manifest: its shards are files of their own
    rows = {"apr": apr_rows, "gguf": gguf_rows}.get(checkpoint.format, safetensors_rows)(data)
    if green and len(rows) != len(checkpoint.tensors):
        raise WrongVerdict(f"{len(rows)} entries in the bytes, {len(checkpoint.tensors)} tensors")
    for name, entry in checkpoint.tensors.items():
        if name not in rows:
            raise WrongVerdict(f"{name} is not in the bytes")
        shape, start, sizes = rows[name]
        if shape != entry.shape or entry.size_bytes not in sizes:
            raise WrongVerdict(f"{name}: {shape} of {sorted(sizes)} bytes; read as {entry}")
        if entry.size_bytes and checkpoint.raw(name) != data[start : start + entry.size_bytes]:
            raise WrongVerdict(f"{name}: other bytes than those at {start}")


def apr_rows(data: bytes) -> Mapping[str, Row]:
    start = struct.unpack_from("<Q", data, 32)[0]
    rows: dict[str, Row] = {}
    for at, name_end, dims in entry_places(data):
        *shape, offset, size = struct.unpack_from(f"<{dims + 2}Q", data, name_end + 2)
        possible = {0} if size == 0 else apr_sizes(data[name_end], tuple(shape)) & {size}
        rows[data[at + 2 : name_end].decode("utf-8", "replace")] = (tuple(shape), start + offset, possible)
    return rows


def apr_sizes(code: int, shape: tuple[int, ...]) -> set[int]:
    """Every size that a code has had for a shape, from the format's tables (code 0 also labelled other types)."""
    count = prod(shape)
    found = {count * ELEMENT_BYTES[code]} if code in ELEMENT_BYTES else set()
    others = {0: ((1, 2), (256, 84), (256, 110)), 2: ((1, 2),), 3: ((32, 20),), 6: ((32, 22),), 7: ((32, 24),),
              8: ((32, 34), (256, 144), (256, 176)), 9: ((32, 36), (256, 210)), 10: ((32, 34), (256, 84)),
              11: ((256, 110),), 13: ((256, 144),)}.get(code, ())  # fmt: skip
    if code in (9, 129):
        found.add(4 + count)
    for elements, taken in (*((BLOCKS[code],) if code in BLOCKS else ()), *others):
        found.add(-(-count // elements) * taken)
        if len(shape) == 2:
            found.add(shape[0] * -(-shape[1] // elements) * taken)
    return found


def safetensors_rows(data: bytes) -> Mapping[str, Row]:
    length = int.from_bytes(data[:8], "little")
    rows: dict[str, Row] = {}
    for name, info in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            size = prod(info["shape"]) * SAFETENSORS_BYTES.get(info["dtype"], end - begin)
            rows[name] = (tuple(info["shape"]), 8 + length + begin, {size} & {end - begin})
    return rows


def gguf_rows(data: bytes) -> Mapping[str, Row]:
    """Version 2 and 3, little-endian; names unchanged."""
    tensors, pairs = struct.unpack_from("<QQ", data, 8)
    at, alignment = 24, 32
    for _ in range(pairs):
        key, at = _text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if key == "general.alignment" and kind == 4:
            (alignment,) = struct.unpack_from("<I", data, at + 4)
        at = _past(data, at + 4, kind)
    found = []
    for _ in range(tensors):
        name, at = _text(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        *dims, offset = struct.unpack_from(f"<{rank}Q4xQ", data, at + 4)
        (kind,) = struct.unpack_from("<I", data, at + 4 + 8 * rank)
        at += 16 + 8 * rank
        elements, taken = GGML[kind]
        found.append((name, tuple(reversed(dims)), offset, prod(dims) // elements * taken))
    start = -(-at // alignment) * alignment
    return {name: (shape, start + offset, {size}) for name, shape, offset, size in found}


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + size].decode("utf-8", "replace"), at + 8 + size


def _past(data: bytes, at: int, kind: int) -> int:
    """Where a value of this kind ends."""
    if kind == 8:
        return _text(data, at)[1]
    if kind != 9:
        return at + SCALAR_BYTES[kind]
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element in SCALAR_BYTES:
        return at + count * SCALAR_BYTES[element]
    for _ in range(count):
        at = _past(data, at, element)
    return at
