"""Raw tensor bytes to float32 or bfloat16 arrays, part by part, written straight into the result."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Literal, overload

import numpy as np

from aprnb.errors import CheckpointError, MissingExtra
from aprnb.formats.codecs import k_quants, small_blocks
from aprnb.formats.codecs.arrays import Bytes, Floats, Halves, in_parts, room, round_to_bf16
from aprnb.formats.dtypes import LISTED, DType

Target = Literal["F32", "BF16"]
Decoder = Callable[[Bytes, Floats], None]

PLAIN = {
    "F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "u1",
}  # fmt: skip
"""Types that numpy has; every other one has a decoder."""

_BLOCKS: dict[str, Decoder] = {
    "AprQ4": small_blocks.apr_q4,
    "Q4_0": small_blocks.q4_0,
    "Q4_1": small_blocks.q4_1,
    "Q5_0": small_blocks.q5_0,
    "Q5_1": small_blocks.q5_1,
    "Q8_0": small_blocks.q8_0,
    "Q2_K": k_quants.q2_k,
    "Q3_K": k_quants.q3_k,
    "Q4_K": k_quants.q4_k,
    "Q5_K": k_quants.q5_k,
    "Q6_K": k_quants.q6_k,
}


@overload
def decode(
    raw: bytes | bytearray | memoryview, dtype: DType, shape: tuple[int, ...], to: Literal["F32"] = "F32"
) -> Floats: ...
@overload
def decode(
    raw: bytes | bytearray | memoryview, dtype: DType, shape: tuple[int, ...], to: Literal["BF16"]
) -> Halves: ...
def decode(
    raw: bytes | bytearray | memoryview, dtype: DType, shape: tuple[int, ...], to: Target = "F32"
) -> Floats | Halves:
    """The tensor as an array of `shape`: float32, or the bit patterns (uint16) of bfloat16 rounded to nearest even.

    `raw` must have one of the dtype's sizes for that shape. Temporaries stay below some MiB. Raises MissingExtra for a
    rare GGML type whose decoder is in the `gguf` package where that is not installed.
    """
    if to == "BF16" and dtype.name == "BF16":
        return np.frombuffer(raw, dtype="<u2").reshape(shape)
    if to == "F32" and dtype.name == "F32":
        return np.frombuffer(raw, dtype="<f4").reshape(shape)
    values: Any = np.empty(prod(shape), np.float32 if to == "F32" else np.uint16)
    if values.size:
        _fill(np.frombuffer(raw, dtype=np.uint8), dtype, shape, values)
    result: Floats | Halves = values.reshape(shape)
    return result


def widen_bf16(bits: Halves) -> Floats:
    """bfloat16 bit patterns (uint16) to float32 of the same shape: the upper half of the float32 bits."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _fill(data: Bytes, dtype: DType, shape: tuple[int, ...], values: np.ndarray) -> None:
    if dtype.name == "AprQ8":
        _fill_apr_q8(data, values)
        return
    decoder = decoder_of(dtype)
    width, size = dtype.block_elements, dtype.block_bytes
    if dtype.padded_rows and len(shape) == 2 and data.size != dtype.flat_size_bytes(values.size):
        rows, columns = shape
        blocks = data.reshape(rows, -1, size)
        _fill_units(decoder, blocks, width, values.reshape(rows, columns))
        return
    whole = values.size // width
    blocks = data.reshape(-1, 1, size)
    _fill_units(decoder, blocks[:whole], width, values[: whole * width].reshape(whole, width))
    rest = values.size - whole * width
    if rest:
        _fill_units(decoder, blocks[whole:], width, values[whole * width :].reshape(1, rest))


def _fill_units(decoder: Decoder, units: Bytes, width: int, values: np.ndarray) -> None:
    """`units` [n, blocks, block bytes] into `values` [n, kept]; kept may be less than the blocks hold (padding)."""
    elements, kept = units.shape[1] * width, values.shape[1]
    direct = values.dtype == np.float32 and kept == elements

    def work(part: slice) -> None:
        blocks = units[part].reshape(-1, units.shape[2])
        if direct:
            decoder(blocks, values[part].reshape(-1, width))
            return
        scratch = room("decoded", (len(blocks), width))
        decoder(blocks, scratch)
        _store(scratch.reshape(-1, elements)[:, :kept], values[part])

    in_parts(work, len(units), elements)


def _store(scratch: Floats, out: np.ndarray) -> None:
    if out.dtype == np.float32:
        out[...] = scratch
    else:
        round_to_bf16(np.ascontiguousarray(scratch), out)


def _fill_apr_q8(data: Bytes, values: np.ndarray) -> None:
    """One f32 scale for the whole tensor, then a signed byte per element; code · scale."""
    scale, codes = data[:4].view("<f4"), data[4:].view(np.int8)

    def work(part: slice) -> None:
        if values.dtype == np.float32:
            np.multiply(codes[part], scale, out=values[part])
        else:
            round_to_bf16(codes[part] * scale, values[part])

    in_parts(work, values.size, 1)


def decoder_of(dtype: DType) -> Decoder:
    """The function that fills float32 [n, block elements] from blocks [n, block bytes].

    Raises CheckpointError for a type that has none, MissingExtra for one whose decoder is in a package that is missing.
    """
    if dtype in LISTED:
        raise CheckpointError(
            f"element type {dtype.name} has no decoder in aprnb", action="read its bytes with Checkpoint.raw"
        )
    if dtype.name in _BLOCKS:
        return _BLOCKS[dtype.name]
    if dtype.name in PLAIN:
        kind = PLAIN[dtype.name]
        return lambda blocks, out: np.copyto(out, blocks.view(kind), casting="unsafe")
    if dtype.name == "BF16":
        return _widen
    if dtype.name in _EIGHT_BITS:
        table = _EIGHT_BITS[dtype.name]()
        return lambda blocks, out: np.copyto(out, table[blocks])
    return _by_gguf(dtype)


def _widen(blocks: Bytes, out: Floats) -> None:
    np.left_shift(blocks.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


def _float8_table(mantissa_bits: int, bias: int) -> Floats:
    """All 256 values of an 8-bit float with `mantissa_bits`; the special codes are set by the caller."""
    codes = np.arange(256)
    exponent = (codes & 0x7F) >> mantissa_bits
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(exponent > 0, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    return np.where(codes & 0x80, -magnitude, magnitude).astype(np.float32)


def _e4m3() -> Floats:
    """OCP 8-bit float, 4 exponent and 3 mantissa bits, no infinity; 0x7F and 0xFF are NaN."""
    table = _float8_table(3, 7)
    table[[0x7F, 0xFF]] = np.nan
    return table


def _e5m2() -> Floats:
    """OCP 8-bit float, 5 exponent and 2 mantissa bits, infinity and NaN as in IEEE 754."""
    table = _float8_table(2, 15)
    table[[0x7C, 0xFC]] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


_EIGHT_BITS = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2}


def _by_gguf(dtype: DType) -> Decoder:
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError:
        raise MissingExtra("gguf", "gguf") from None
    try:
        kind = GGMLQuantizationType[dtype.name]
        # A type may be in the enumeration and have no decoder, which only a call shows.
        dequantize(np.zeros((1, dtype.block_bytes), np.uint8), kind)
    except (KeyError, NotImplementedError):
        raise CheckpointError(
            f"element type {dtype.name} has no decoder in aprnb or in the gguf package",
            action="update the gguf package, or convert the file with llama.cpp to a type that has one",
        ) from None
    return lambda blocks, out: np.copyto(out, dequantize(np.ascontiguousarray(blocks), kind))
