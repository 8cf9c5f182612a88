"""Raw tensor bytes to float32 arrays.

Layouts: plain little-endian types; AprQ8 and AprQ4 of the `apr` tool; GGML's Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q6_K.
Blocks are decoded a bounded number at a time, so temporaries stay small beside the result.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from aprnb.formats.dtypes import DType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_CHUNK_ELEMENTS = 1 << 18

_PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "I64": "<i8", "I8": "i1", "U8": "u1"}


def decode(raw: bytes | bytearray | memoryview, dtype: DType, shape: tuple[int, ...]) -> Floats:
    """The tensor as a float32 array of `shape`; `raw` must have one of the dtype's sizes for that shape."""
    if dtype.name in _PLAIN:
        return np.frombuffer(raw, dtype=_PLAIN[dtype.name]).astype(np.float32, copy=False).reshape(shape)
    if dtype.name == "BF16":
        return widen_bf16(np.frombuffer(raw, dtype="<u2")).reshape(shape)
    if prod(shape) == 0:
        return np.zeros(shape, np.float32)
    data = np.frombuffer(raw, dtype=np.uint8)
    if dtype.name == "AprQ8":
        return (data[4:].view(np.int8).astype(np.float32) * data[:4].view(np.float32)).reshape(shape)
    return _decode_blocks(data, dtype, shape)


def widen_bf16(bits: NDArray[np.uint16]) -> Floats:
    """bfloat16 bit patterns (uint16) to float32 of the same shape: the upper half of the float32 bits."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _decode_blocks(data: Bytes, dtype: DType, shape: tuple[int, ...]) -> Floats:
    blocks = data.reshape(-1, dtype.block_bytes)
    decoder = _DECODERS[dtype.name]
    values = np.empty((len(blocks), dtype.block_elements), np.float32)
    step = max(1, _CHUNK_ELEMENTS // dtype.block_elements)
    for start in range(0, len(blocks), step):
        values[start : start + step] = decoder(blocks[start : start + step])
    if dtype.padded_rows and len(shape) == 2 and data.size == shape[0] * dtype.flat_size_bytes(shape[1]):
        return np.ascontiguousarray(values.reshape(shape[0], -1)[:, : shape[1]])
    return values.reshape(-1)[: prod(shape)].reshape(shape)


def _f16(blocks: Bytes, start: int) -> Floats:
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(codes: Bytes) -> tuple[Bytes, Bytes]:
    return codes & np.uint8(15), codes >> np.uint8(4)


def _apr_q4(blocks: Bytes) -> Floats:
    """f16 scale, 16 bytes; element 2i in the low nibble of byte i, 2i+1 in the high one; (code − 8) · scale."""
    codes = np.stack(_nibbles(blocks[:, 2:18]), axis=2).reshape(len(blocks), 32)
    return (codes.astype(np.float32) - 8) * _f16(blocks, 0)


def _q4_0(blocks: Bytes) -> Floats:
    """f16 scale, 16 bytes; low nibbles are elements 0–15, high ones 16–31; (code − 8) · scale."""
    return (np.concatenate(_nibbles(blocks[:, 2:18]), axis=1).astype(np.float32) - 8) * _f16(blocks, 0)


def _q4_1(blocks: Bytes) -> Floats:
    """f16 scale, f16 minimum, 16 bytes as in Q4_0; code · scale + minimum."""
    codes = np.concatenate(_nibbles(blocks[:, 4:20]), axis=1).astype(np.float32)
    return codes * _f16(blocks, 0) + _f16(blocks, 2)


def _five_bits(blocks: Bytes, start: int) -> Floats:
    """Bit i of the u32 at `start` is bit 4 of element i; the low bits follow as in Q4_0."""
    high = np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little")
    low = np.concatenate(_nibbles(blocks[:, start + 4 : start + 20]), axis=1)
    return (low | (high << 4)).astype(np.float32)


def _q5_0(blocks: Bytes) -> Floats:
    return (_five_bits(blocks, 2) - 16) * _f16(blocks, 0)


def _q5_1(blocks: Bytes) -> Floats:
    return _five_bits(blocks, 4) * _f16(blocks, 0) + _f16(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return np.ascontiguousarray(blocks[:, 2:34]).view(np.int8).astype(np.float32) * _f16(blocks, 0)


def _q4_k(blocks: Bytes) -> Floats:
    """f16 d, f16 dmin, twelve bytes of 6-bit scales and minima for 8 sub-blocks of 32, 128 bytes of codes.

    Each run of 32 bytes holds sub-block 2c in its low nibbles and 2c+1 in its high ones; d·scale·code − dmin·minimum.
    """
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    packed = blocks[:, 16:144].reshape(-1, 4, 1, 32)
    codes = np.concatenate((packed & 15, packed >> 4), axis=2).reshape(-1, 8, 32).astype(np.float32)
    scale = (_f16(blocks, 0) * scales)[:, :, None]
    minimum = (_f16(blocks, 2) * minima)[:, :, None]
    return (scale * codes - minimum).reshape(-1, 256)


def _six_bit_scales(packed: Bytes) -> tuple[Floats, Floats]:
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate((low & 63, (high & 15) | ((low >> 6) << 4)), axis=1)
    minima = np.concatenate((middle & 63, (high >> 4) | ((middle >> 6) << 4)), axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _q6_k(blocks: Bytes) -> Floats:
    """128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales (one per 16 elements), f16 d; d·scale·code."""
    low = blocks[:, 0:128].reshape(-1, 2, 2, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    quarters = np.concatenate((low & 15, low >> 4), axis=2)
    pairs = np.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=2)
    codes: Floats = (quarters | (pairs << 4)).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    scale: Floats = (_f16(blocks, 208) * scales)[:, :, None]
    return (scale * codes).reshape(-1, 256)


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "AprQ4": _apr_q4,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}


def encode(values: Floats, dtype: DType) -> bytes:
    """Float32 values as little-endian bytes of a plain float type, rounded to nearest even."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype.name == "BF16":
        bits = values.view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype("<u2").tobytes()
    if not dtype.is_float:
        raise ValueError(f"cannot encode to {dtype.name}")
    return values.astype(_PLAIN[dtype.name]).tobytes()
