"""GGML's K-quants: super-blocks of 256 elements in sub-blocks of 16 or 32 with small scales of their own.

Each decoder takes blocks [n, block bytes] and fills float32 [n, 256]. Layouts: ggml-quants of llama.cpp. Codes are
extracted from words of eight bytes, since numpy shifts those eight bytes in one go, and bytes one by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprnb.formats.codecs.arrays import Bytes, Floats, float16_at

Words = NDArray[np.uint64]

_BIT, _PAIR, _NIBBLE = (np.uint64(mask * 0x0101_0101_0101_0101) for mask in (1, 3, 15))
"""The lowest one, two and four bits of each byte in a word."""


def q2_k(blocks: Bytes, out: Floats) -> None:
    """16 bytes of scale (low nibble) and minimum (high nibble) per 16 elements, 64 bytes of bit pairs, f16 d, dmin."""
    packed, runs = _words(blocks, 16, 80).reshape(-1, 2, 4), out.reshape(-1, 2, 4, 32)
    for pair in range(4):
        _put(runs[:, :, pair], _bits(packed, 2 * pair, _PAIR))
    nibbles = blocks[:, 0:16]
    scale = float16_at(blocks, 80) * (nibbles & 15).astype(np.float32)
    _scale(out, scale, float16_at(blocks, 82) * (nibbles >> 4).astype(np.float32))


def q3_k(blocks: Bytes, out: Floats) -> None:
    """32 bytes of third bits (0 means minus 4), 64 of bit pairs, 12 of sixteen 6-bit scales (minus 32), f16 d."""
    third, packed, runs = _words(blocks, 0, 32), _words(blocks, 32, 96), out.reshape(-1, 8, 32)
    for run in range(8):
        half, pair = divmod(run, 4)
        codes = _bits(packed[:, 4 * half : 4 * half + 4], 2 * pair, _PAIR)
        codes |= _bits(third, run, _BIT) << np.uint64(2)
        _put(runs[:, run], codes, zero=4)
    scales = blocks[:, 96:108]
    low = np.concatenate((scales[:, :8] & 15, scales[:, :8] >> 4), axis=1)
    high = np.concatenate([(scales[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    _scale(out, float16_at(blocks, 108) * ((low | (high << 4)).astype(np.float32) - 32))


def q4_k(blocks: Bytes, out: Floats) -> None:
    """f16 d, f16 dmin, twelve bytes of 6-bit scales and minima for 8 sub-blocks of 32, 128 bytes of codes.

    Each run of 32 bytes holds sub-block 2c in its low nibbles and 2c+1 in its high ones; d·scale·code − dmin·minimum.
    """
    packed, runs = _words(blocks, 16, 144).reshape(-1, 4, 4), out.reshape(-1, 4, 2, 32)
    for half in range(2):
        _put(runs[:, :, half], _bits(packed, 4 * half, _NIBBLE))
    _scale(out, *_six_bit_scales(blocks))


def q5_k(blocks: Bytes, out: Floats) -> None:
    """As Q4_K with 32 bytes of fifth bits (bit j for sub-block j) between scales and codes."""
    fifth, packed, runs = _words(blocks, 16, 48), _words(blocks, 48, 176).reshape(-1, 4, 4), out.reshape(-1, 8, 32)
    for run in range(8):
        codes = _bits(packed[:, run // 2], 4 * (run % 2), _NIBBLE)
        codes |= _bits(fifth, run, _BIT) << np.uint64(4)
        _put(runs[:, run], codes)
    _scale(out, *_six_bit_scales(blocks))


def q6_k(blocks: Bytes, out: Floats) -> None:
    """128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales (one per 16 elements), f16 d; d·scale·code.

    In each half of 128 elements two runs of 32 take the low nibbles of 64 bytes and the next two their high ones.
    """
    low, high = _words(blocks, 0, 128).reshape(-1, 2, 2, 4), _words(blocks, 128, 192).reshape(-1, 2, 4)
    runs, codes = out.reshape(-1, 2, 2, 64), np.empty_like(low)
    for nibble in range(2):
        for run in range(2):
            shift = 4 * nibble + 2 * run - 4
            pairs = high >> np.uint64(shift) if shift > 0 else high << np.uint64(-shift)
            np.bitwise_and(pairs, _PAIR << np.uint64(4), out=codes[:, :, run])
        codes |= _bits(low, 4 * nibble, _NIBBLE)
        _put(runs[:, :, nibble], codes.reshape(-1, 2, 8), zero=32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    scales *= float16_at(blocks, 208)
    _scale(out, scales)


def _words(blocks: Bytes, start: int, stop: int) -> Words:
    return np.ascontiguousarray(blocks[:, start:stop]).view(np.uint64)


def _bits(packed: Words, shift: int, mask: np.uint64) -> Words:
    if not shift:
        return packed & mask
    codes = packed >> np.uint64(shift)
    codes &= mask  # clears what the shift moved in from the next byte
    return codes


def _put(runs: Floats, codes: Words, zero: int = 0) -> None:
    """The codes as float32 into their runs of elements, less `zero`."""
    small = codes.view(np.uint8)
    if zero:
        small -= np.uint8(zero)  # wraps below 0, as signed bytes do
        np.copyto(runs, small.view(np.int8))
    else:
        np.copyto(runs, small)


def _scale(out: Floats, scale: Floats, minimum: Floats | None = None) -> None:
    """`scale · code − minimum`, both per sub-block [n, sub-blocks].

    np.repeat and one long product would be faster alone, but np.repeat holds the interpreter's lock.
    """
    runs = out.reshape(*scale.shape, -1)
    runs *= scale[:, :, None]
    if minimum is not None:
        runs -= minimum[:, :, None]


def _six_bit_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """d · scale and dmin · minimum of the 8 sub-blocks, from bytes 0–15: four of each at a time in words of 4 bytes."""
    low, middle, high = np.ascontiguousarray(blocks[:, 4:16]).view(np.uint32).T
    codes = np.empty((2, len(blocks), 2), np.uint32)
    for kind, first, rest in ((0, low, high), (1, middle, high >> np.uint32(4))):
        codes[kind, :, 0] = first & np.uint32(0x3F3F3F3F)
        codes[kind, :, 1] = (rest & np.uint32(0x0F0F0F0F)) | ((first >> np.uint32(2)) & np.uint32(0x30303030))
    scales, minima = codes.view(np.uint8).astype(np.float32)
    scales *= float16_at(blocks, 0)
    minima *= float16_at(blocks, 2)
    return scales, minima
