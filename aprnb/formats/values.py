"""A tensor's values part by part, which bounds the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aprnb.formats.codecs import decode
from aprnb.formats.codecs.arrays import Floats

if TYPE_CHECKING:
    from aprnb.formats.checkpoint import Checkpoint

PART_ELEMENTS = 1 << 22
"""16 MiB of float32 at a time; a multiple of every block length."""


def value_parts(checkpoint: Checkpoint, name: str) -> Iterator[Floats]:
    """The tensor as flat float32 arrays in C order, at most PART_ELEMENTS long (whole rows where rows are padded).

    All parts but the last are a multiple of 256 elements long unless rows are padded. Raises CheckpointError for a head
    without bytes.
    """
    dtype = checkpoint.entry(name).dtype
    return (decode(raw, dtype, shape).reshape(-1) for raw, shape in encoded_parts(checkpoint, name))


def encoded_parts(
    checkpoint: Checkpoint, name: str, elements: int = PART_ELEMENTS
) -> Iterator[tuple[bytearray, tuple[int, ...]]]:
    """The same parts before they are decoded, each with the shape that `decode` takes; `elements` whole blocks long."""
    entry = checkpoint.entry(name)
    dtype, shape = entry.dtype, entry.shape
    entry.require_bytes()
    if dtype.padded_rows and len(shape) == 2 and entry.size_bytes != dtype.flat_size_bytes(entry.elements):
        row_bytes = entry.size_bytes // shape[0]
        step = max(1, elements // shape[1])
        for row in range(0, shape[0], step):
            rows = min(step, shape[0] - row)
            yield checkpoint.read_part(name, row * row_bytes, rows * row_bytes), (rows, shape[1])
        return
    prefix = checkpoint.read_part(name, 0, dtype.prefix_bytes) if entry.size_bytes else bytearray()
    for start in range(0, entry.elements, elements):
        count = min(elements, entry.elements - start)
        first = start // dtype.block_elements * dtype.block_bytes
        size = -(-count // dtype.block_elements) * dtype.block_bytes
        raw = checkpoint.read_part(name, dtype.prefix_bytes + first, size)
        yield prefix + raw if prefix else raw, (count,)
