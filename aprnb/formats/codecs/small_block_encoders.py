"""Encoders of GGML's blocks of 32 elements, with the bytes of llama.cpp's reference quantisation (ggml-quants.c).

Each takes finite float32 [n, 32] and fills blocks [n, block bytes].
"""

from __future__ import annotations

import numpy as np

from aprnb.formats.codecs.arrays import Bytes, Floats, codes_of, reduced


def q4_0(values: Floats, out: Bytes) -> None:
    """Scale: the value of largest magnitude, with its sign, over −8; codes 0 … 15 stand for −8 … 7."""
    scale = _signed_peaks(values) / np.float32(-8)
    codes = _truncated(values * _inverse(scale)[:, None], 8.5, 15)
    _put_halves(out, 0, scale)
    out[:, 2:] = _nibbles(codes)


def q5_0(values: Floats, out: Bytes) -> None:
    """Scale: the value of largest magnitude, with its sign, over −16; codes 0 … 31 stand for −16 … 15."""
    scale = _signed_peaks(values) / np.float32(-16)
    codes = _truncated(values * _inverse(scale)[:, None], 16.5, 31)
    _put_halves(out, 0, scale)
    out[:, 2:6] = _fifth_bits(codes)
    out[:, 6:] = _nibbles(codes)


def q5_1(values: Floats, out: Bytes) -> None:
    """Range/31 and the minimum; codes 0 … 31."""
    low, high = reduced(np.minimum, values, 32), reduced(np.maximum, values, 32)
    scale = (high - low) / np.float32(31)
    codes = _truncated((values - low[:, None]) * _inverse(scale)[:, None], 0.5, 31)
    _put_halves(out, 0, scale)
    _put_halves(out, 2, low)
    out[:, 4:8] = _fifth_bits(codes)
    out[:, 8:] = _nibbles(codes)


def q8_0(values: Floats, out: Bytes) -> None:
    """Largest magnitude/127; codes −127 … 127, halves away from zero."""
    low, high = reduced(np.minimum, values, 32), reduced(np.maximum, values, 32)
    scale: Floats = np.maximum(high, -low)
    scale /= np.float32(127)
    np.abs(scale, out=scale)  # of a block of zeros +0, not −0
    _put_halves(out, 0, scale)
    out[:, 2:] = codes_of(values * _inverse(scale)[:, None], -127, 127).view(np.uint8)


def _signed_peaks(values: Floats) -> Floats:
    """The value of largest magnitude of each block; of two that differ in sign, the first."""
    low, high = reduced(np.minimum, values, 32), reduced(np.maximum, values, 32)
    peaks = np.where(high > -low, high, low)
    ties = np.flatnonzero(high == -low)
    peaks[ties] = values[ties, np.abs(values[ties]).argmax(axis=1)]
    return peaks


def _inverse(scale: Floats) -> Floats:
    """1/scale; 0 for a scale of 0, and for one so small that its inverse overflows (it is stored as 0)."""
    inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _truncated(scaled: Floats, offset: float, high: int) -> Bytes:
    """`scaled` + `offset`, without the fraction; overwrites `scaled`, none of which lies below −`offset`."""
    scaled += np.float32(offset)
    return np.minimum(scaled.astype(np.uint8), np.uint8(high))


def _put_halves(out: Bytes, start: int, numbers: Floats) -> None:
    out[:, start : start + 2] = numbers.astype("<f2").view(np.uint8).reshape(-1, 2)


def _nibbles(codes: Bytes) -> Bytes:
    """Elements 0–15 in the low nibbles, 16–31 in the high ones."""
    packed: Bytes = (codes[:, :16] & np.uint8(15)) | (codes[:, 16:] << np.uint8(4))
    return packed


def _fifth_bits(codes: Bytes) -> Bytes:
    return np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")
