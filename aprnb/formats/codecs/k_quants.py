"""GGML's K-quants: super-blocks of 256 elements in sub-blocks of 16 or 32 with small scales of their own.

Each decoder takes blocks [n, block bytes] and fills float32 [n, 256]. Layouts: ggml-quants of llama.cpp.
"""

from __future__ import annotations

import numpy as np

from aprnb.formats.codecs.arrays import Bytes, Floats, float16_at

_PAIRS = np.array((0, 2, 4, 6), np.uint8)[:, None]
"""Shifts of the four bit pairs in a byte, lowest first."""


def q2_k(blocks: Bytes, out: Floats) -> None:
    """16 bytes of scale (low nibble) and minimum (high nibble) per 16 elements, 64 bytes of bit pairs, f16 d, dmin."""
    nibbles = blocks[:, 0:16]
    scale = float16_at(blocks, 80) * (nibbles & 15).astype(np.float32)
    minimum = float16_at(blocks, 82) * (nibbles >> 4).astype(np.float32)
    _affine(out, _bit_pairs(blocks[:, 16:80]), scale, minimum)


def q3_k(blocks: Bytes, out: Floats) -> None:
    """32 bytes of third bits (0 means minus 4), 64 of bit pairs, 12 of sixteen 6-bit scales (minus 32), f16 d."""
    codes = _bit_pairs(blocks[:, 32:96])
    third = blocks[:, 0:32]
    for bit in range(8):
        missing = (third >> bit) & 1 ^ 1
        codes[:, 32 * bit : 32 * bit + 32] -= missing << 2
    packed = blocks[:, 96:108]
    low = np.concatenate((packed[:, :8] & 15, packed[:, :8] >> 4), axis=1)
    high = np.concatenate([(packed[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = (low | (high << 4)).astype(np.float32) - 32
    _affine(out, codes.view(np.int8), float16_at(blocks, 108) * scales)


def q4_k(blocks: Bytes, out: Floats) -> None:
    """f16 d, f16 dmin, twelve bytes of 6-bit scales and minima for 8 sub-blocks of 32, 128 bytes of codes.

    Each run of 32 bytes holds sub-block 2c in its low nibbles and 2c+1 in its high ones; d·scale·code − dmin·minimum.
    """
    scale, minimum = _six_bit_scales(blocks)
    _affine(out, _nibble_runs(blocks[:, 16:144]), scale, minimum)


def q5_k(blocks: Bytes, out: Floats) -> None:
    """As Q4_K with 32 bytes of fifth bits (bit j for sub-block j) between scales and codes."""
    scale, minimum = _six_bit_scales(blocks)
    codes = _nibble_runs(blocks[:, 48:176])
    fifth = blocks[:, 16:48]
    for bit in range(8):
        codes[:, 32 * bit : 32 * bit + 32] |= ((fifth >> bit) & 1) << 4
    _affine(out, codes, scale, minimum)


def q6_k(blocks: Bytes, out: Floats) -> None:
    """128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales (one per 16 elements), f16 d; d·scale·code."""
    low = blocks[:, 0:128].reshape(-1, 2, 2, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 32)
    codes = np.empty((len(blocks), 2, 4, 32), np.uint8)
    np.bitwise_and(low, 15, out=codes[:, :, :2])
    np.right_shift(low, 4, out=codes[:, :, 2:])
    upper = high[:, :, None, :] >> _PAIRS  # one pass over short runs, the rest over the whole
    upper &= 3
    upper <<= 4
    codes |= upper
    codes -= 32
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    _affine(out, codes.reshape(-1, 256).view(np.int8), float16_at(blocks, 208) * scales)


def _affine(out: Floats, codes: np.ndarray, scale: Floats, minimum: Floats | None = None) -> None:
    """`scale · code − minimum`, both per sub-block [n, sub-blocks]; one long product is faster than many short ones."""
    width = out.shape[1] // scale.shape[1]
    np.multiply(codes, np.repeat(scale, width, axis=1), out=out)
    if minimum is not None:
        out -= np.repeat(minimum, width, axis=1)


def _bit_pairs(packed: Bytes) -> Bytes:
    """Two runs of 32 bytes, each holding four runs of 32 elements in its bit pairs, lowest first."""
    codes: Bytes = packed.reshape(-1, 2, 1, 32) >> _PAIRS
    codes &= 3
    return codes.reshape(-1, 256)


def _nibble_runs(packed: Bytes) -> Bytes:
    codes = np.empty((len(packed), 4, 2, 32), np.uint8)
    runs = packed.reshape(-1, 4, 32)
    np.bitwise_and(runs, 15, out=codes[:, :, 0])
    np.right_shift(runs, 4, out=codes[:, :, 1])
    return codes.reshape(-1, 256)


def _six_bit_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """d · scale and dmin · minimum of the 8 sub-blocks, from bytes 0–15."""
    low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales, minima = np.empty((2, len(blocks), 8), np.float32)
    scales[:, :4], minima[:, :4] = low & 63, middle & 63
    scales[:, 4:] = (high & 15) | ((low >> 6) << 4)
    minima[:, 4:] = (high >> 4) | ((middle >> 6) << 4)
    scales *= float16_at(blocks, 0)
    minima *= float16_at(blocks, 2)
    return scales, minima
