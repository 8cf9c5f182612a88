"""Tensors that change their block type and keep every value: Q4_0 and AprQ4 always, Q8_0 and AprQ8 with one scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprnb.formats import Checkpoint, TensorEntry
from aprnb.formats.codecs import equal_blocks
from aprnb.formats.codecs.arrays import Bytes
from aprnb.formats.dtypes import APR_Q4, APR_Q8, Q4_0, Q8_0, DType
from aprnb.formats.values import PART_ELEMENTS, encoded_parts

_FEW = 1 << 18
"""Elements at a time of a search that ordinary tensors end in their first blocks."""
_COUNTERPARTS = {"Q4_0": APR_Q4, "Q8_0": APR_Q8, "AprQ4": Q4_0, "AprQ8": Q8_0}


def equal_type(checkpoint: Checkpoint, entry: TensorEntry) -> DType | None:
    """The other format's type that holds the tensor's values bit for bit, if there is one.

    Reads the tensor's scales: of most Q8_0 tensors only the first, of Q4_0 all.
    """
    target = _COUNTERPARTS.get(entry.dtype.name)
    if target is None or not entry.elements or not entry.shape or entry.shape[-1] % 32:
        return None
    if entry.dtype == Q4_0:
        return target if equal_blocks.keeps_q4_scales(_blocks(checkpoint, entry)) else None
    if entry.dtype == Q8_0:
        return None if _common_scale(checkpoint, entry) is None else target
    if entry.dtype == APR_Q8:
        scale = _stored_scale(checkpoint, entry)
        with np.errstate(over="ignore"):
            exact = np.isfinite(scale) and np.float32(np.float16(scale)) == scale
        return target if exact else None
    return target


def is_equal_type(checkpoint: Checkpoint, entry: TensorEntry, dtype: DType) -> bool:
    """Whether `dtype` is the tensor's `equal_type`; reads nothing for any other."""
    return _COUNTERPARTS.get(entry.dtype.name) == dtype and equal_type(checkpoint, entry) is not None


def equal_parts(checkpoint: Checkpoint, entry: TensorEntry) -> Iterator[bytes]:
    """The tensor's bytes in its `equal_type`, which must not be None."""
    if entry.dtype == Q8_0:
        scale = _common_scale(checkpoint, entry)
        assert scale is not None
        yield from equal_blocks.q8_0_to_apr(_blocks(checkpoint, entry), scale)
    elif entry.dtype == APR_Q8:
        scale = _stored_scale(checkpoint, entry)
        for raw, _ in encoded_parts(checkpoint, entry.name):
            yield equal_blocks.apr_q8_to_ggml(np.frombuffer(raw, np.uint8)[4:], scale).tobytes()
    else:
        changed = equal_blocks.q4_0_to_apr if entry.dtype == Q4_0 else equal_blocks.apr_q4_to_ggml
        for blocks in _blocks(checkpoint, entry):
            yield changed(blocks).tobytes()


def _common_scale(checkpoint: Checkpoint, entry: TensorEntry) -> np.float32 | None:
    return equal_blocks.common_q8_scale(_blocks(checkpoint, entry, _FEW))


def _stored_scale(checkpoint: Checkpoint, entry: TensorEntry) -> np.float32:
    return np.float32(np.frombuffer(checkpoint.read_part(entry.name, 0, 4), "<f4")[0])


def _blocks(checkpoint: Checkpoint, entry: TensorEntry, elements: int = PART_ELEMENTS) -> Iterator[Bytes]:
    for raw, _ in encoded_parts(checkpoint, entry.name, elements):
        yield np.frombuffer(raw, np.uint8).reshape(-1, entry.dtype.block_bytes)
