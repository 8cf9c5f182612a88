"""Encoders of K-quants as the `apr` tool quantises: ranges and largest values, without llama.cpp's search for scales.

Each takes finite float32 [n, 256] and fills blocks [n, block bytes]. All arithmetic is float32 and rounds half away
from zero, so that the bytes of `q4_k` equal the tool's. No command of the tool writes Q5_K or Q6_K.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprnb.formats.codecs.arrays import Bytes, Floats, codes_of, reduced

_TINY = np.float32(6.1e-5)
"""The tool's least scale of a block: about the smallest normal float16."""
_LEAST = np.float32(2.0**-24)
"""The smallest float16; it replaces the tool's least scale where the bytes need not be the tool's."""
_SUB_TINY = np.float32(1e-10)
"""The tool's least step of a sub-block: below it all codes are those of 0."""
_NIBBLES, _PAIRS = np.uint64(0x0F0F_0F0F_0F0F_0F0F), np.uint64(0x0303_0303_0303_0303)
_ONES = np.uint64(0x0101_0101_0101_0101)
"""The low four, two and one bits of each byte of a word. Codes are packed eight at a time: numpy shifts words, not
bytes, at full speed, and a code has no bits that a shift could move into the next byte."""


def q4_k(values: Floats, out: Bytes) -> None:
    """Range/15 and −minimum of each sub-block of 32, both in 6 bits of their block's largest; the tool's bytes."""
    _q4_k(values, out, _TINY)


def q4_k_fine(values: Floats, out: Bytes) -> None:
    """The same with scales below the tool's least: for weights whose largest range in a block is below 0.06."""
    _q4_k(values, out, _LEAST)


def _q4_k(values: Floats, out: Bytes, least: np.float32) -> None:
    runs = _sub_blocks(values, out, 15, least).reshape(-1, 4, 2, 4)
    out[:, 16:] = (runs[:, :, 0] | runs[:, :, 1] << np.uint64(4)).view(np.uint8).reshape(-1, 128)


def q5_k(values: Floats, out: Bytes) -> None:
    """As Q4_K with range/31; the fifth bit of run r of 32 elements is bit r of 32 bytes in front of the low nibbles."""
    runs = _sub_blocks(values, out, 31, _LEAST)
    fifth = (runs >> np.uint64(4)) & _ONES
    fifth <<= np.arange(8, dtype=np.uint64)[:, None]
    out[:, 16:48] = np.bitwise_or.reduce(fifth, axis=1).view(np.uint8)
    low = (runs & _NIBBLES).reshape(-1, 4, 2, 4)
    out[:, 48:] = (low[:, :, 0] | low[:, :, 1] << np.uint64(4)).view(np.uint8).reshape(-1, 128)


def _sub_blocks(values: Floats, out: Bytes, highest: int, least: np.float32) -> NDArray[np.uint64]:
    """Fills d, dmin and the 6-bit scales and minima; gives the codes 0 … `highest` as words [n, 8, 4]."""
    low, high = (reduced(operation, values, 32).reshape(-1, 8) for operation in (np.minimum, np.maximum))
    low = np.minimum(low, np.float32(0))  # a minimum is subtracted and cannot be positive; the tool loses such blocks
    sub_scale = _floored(high - low, highest, least)
    sub_minimum: Floats = -low
    d, dmin = _floored(sub_scale.max(axis=1), 63, least), _floored(sub_minimum.max(axis=1), 63, least)
    if least == _LEAST:  # the tool's codes fit the scales before they are rounded
        d, dmin = _as_stored(d), _as_stored(dmin)
    scales = codes_of(sub_scale / d[:, None], 0, 63).view(np.uint8)
    minima = codes_of(sub_minimum / dmin[:, None], 0, 63).view(np.uint8)
    step, shift = d[:, None] * scales, dmin[:, None] * minima
    shifted = np.repeat(shift, 32, axis=1)
    shifted += values
    shifted /= np.repeat(np.where(step > _SUB_TINY, step, np.float32(np.inf)), 32, axis=1)  # code 0 where it is 0
    runs = codes_of(shifted, 0, highest).view(np.uint64).reshape(-1, 8, 4)
    out[:, 0:4] = np.stack((d, dmin), axis=1).astype("<f2").view(np.uint8).reshape(-1, 4)
    _pack_six_bits(scales, minima, out)
    return runs


def _pack_six_bits(scales: Bytes, minima: Bytes, out: Bytes) -> None:
    out[:, 4:8] = (scales[:, :4] & 63) | ((scales[:, 4:] & 0x30) << 2)
    out[:, 8:12] = (minima[:, :4] & 63) | ((minima[:, 4:] & 0x30) << 2)
    out[:, 12:16] = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)


def q6_k(values: Floats, out: Bytes) -> None:
    """Largest/31 of each sub-block of 16, in signed bytes of the block's largest; codes −32 … 31."""
    sub_scale = reduced(np.maximum, np.abs(values), 16).reshape(-1, 16) / np.float32(31)
    d = _as_stored(sub_scale.max(axis=1) / np.float32(127))
    scales = codes_of(sub_scale / d[:, None], -127, 127)
    step = d[:, None] * scales
    inverse = np.where(np.abs(step) > _SUB_TINY, np.float32(1) / step, np.float32(0)).astype(np.float32)
    scaled = np.repeat(inverse, 16, axis=1)
    scaled *= values
    codes = codes_of(scaled, -32, 31)
    codes += np.int8(32)
    quarters = codes.view(np.uint64).reshape(-1, 2, 4, 4)
    low = (quarters[:, :, :2] & _NIBBLES) | ((quarters[:, :, 2:] & _NIBBLES) << np.uint64(4))
    high = (quarters >> np.uint64(4)) & _PAIRS
    out[:, 0:128] = low.reshape(-1, 16).view(np.uint8)
    shifts = np.arange(0, 8, 2, dtype=np.uint64)[:, None]
    out[:, 128:192] = np.bitwise_or.reduce(high << shifts, axis=2).reshape(-1, 8).view(np.uint8)
    out[:, 192:208] = scales.view(np.uint8)
    out[:, 208:210] = d.astype("<f2").view(np.uint8).reshape(-1, 2)


def _floored(numbers: Floats, divisor: int, least: np.float32) -> Floats:
    """As the tool divides."""
    return np.where(numbers > least, numbers / np.float32(divisor), least).astype(np.float32)


def _as_stored(scale: Floats) -> Floats:
    """Rounded to float16, at least its smallest number: codes that are made with it fit what is read back."""
    return np.maximum(scale.astype(np.float16).astype(np.float32), _LEAST)
