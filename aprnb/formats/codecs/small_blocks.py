"""Blocks of 32 elements: AprQ4 of the `apr` tool, and GGML's Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

Each decoder takes blocks [n, block bytes] and fills float32 [n, 32].
"""

from __future__ import annotations

import numpy as np

from aprnb.formats.codecs.arrays import Bytes, Floats, float16_at


def apr_q4(blocks: Bytes, out: Floats) -> None:
    """f16 scale, 16 bytes; element 2i in the low nibble of byte i, 2i+1 in the high one; (code − 8) · scale."""
    wide = blocks[:, 2:18].astype(np.uint16)
    wide |= wide << 4  # with the mask 0x00hl becomes 0x0h0l: in memory the low nibble first
    wide &= 0x0F0F
    _scaled(out, _signed(wide.view(np.uint8), 8), float16_at(blocks, 0))


def q4_0(blocks: Bytes, out: Floats) -> None:
    """f16 scale, 16 bytes; low nibbles are elements 0–15, high ones 16–31; (code − 8) · scale."""
    _scaled(out, _signed(_halves(blocks, 2), 8), float16_at(blocks, 0))


def q4_1(blocks: Bytes, out: Floats) -> None:
    """f16 scale, f16 minimum, 16 bytes as in Q4_0; code · scale + minimum."""
    _scaled(out, _halves(blocks, 4), float16_at(blocks, 0))
    out += float16_at(blocks, 2)


def q5_0(blocks: Bytes, out: Floats) -> None:
    """f16 scale, a u32 of fifth bits, 16 bytes as in Q4_0; (code − 16) · scale."""
    _scaled(out, _signed(_five_bits(blocks, 2), 16), float16_at(blocks, 0))


def q5_1(blocks: Bytes, out: Floats) -> None:
    """f16 scale, f16 minimum, a u32 of fifth bits, 16 bytes; code · scale + minimum."""
    _scaled(out, _five_bits(blocks, 4), float16_at(blocks, 0))
    out += float16_at(blocks, 2)


def q8_0(blocks: Bytes, out: Floats) -> None:
    """f16 scale, 32 signed bytes; code · scale."""
    _scaled(out, blocks[:, 2:34].view(np.int8), float16_at(blocks, 0))


def _scaled(out: Floats, codes: np.ndarray, scale: Floats) -> None:
    np.copyto(out, codes)  # this and the product release the interpreter's lock; np.repeat of the scales would not
    out *= scale


def _signed(codes: Bytes, zero: int) -> np.ndarray:
    codes -= np.uint8(zero)  # wraps below 0, which the view as signed bytes turns into the negative number
    return codes.view(np.int8)


def _halves(blocks: Bytes, start: int) -> Bytes:
    packed = blocks[:, start : start + 16]
    codes = np.empty((len(blocks), 32), np.uint8)
    np.bitwise_and(packed, 15, out=codes[:, :16])
    np.right_shift(packed, 4, out=codes[:, 16:])
    return codes


def _five_bits(blocks: Bytes, start: int) -> Bytes:
    """Bit i of the u32 at `start` is bit 4 of element i; the low bits follow as in Q4_0."""
    codes = _halves(blocks, start + 4)
    high = np.unpackbits(np.ascontiguousarray(blocks[:, start : start + 4]), axis=1, bitorder="little")
    high <<= 4
    codes |= high
    return codes
