"""Float32 values to raw tensor bytes: float types, and the block formats exactly as the `apr` tool quantises them.

All arithmetic is float32 and rounds half away from zero, so that the bytes equal the tool's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from aprnb.errors import OutputError
from aprnb.formats.codecs.arrays import Bytes, Floats, in_parts, round_to_bf16
from aprnb.formats.codecs.decoding import PLAIN
from aprnb.formats.dtypes import DType

Encoder = Callable[[Floats, Bytes], None]
_TINY = np.float32(6.1e-5)
"""The tool's least scale of a block: about the smallest normal float16."""
_SUB_TINY = np.float32(1e-10)
"""The tool's least step of a sub-block: below it all codes are those of 0."""
_SIGN, _BELOW_HALF = np.uint32(1 << 31), np.float32(np.nextafter(np.float32(0.5), np.float32(0))).view(np.uint32)
_NIBBLES, _PAIRS = np.uint64(0x0F0F_0F0F_0F0F_0F0F), np.uint64(0x0303_0303_0303_0303)
"""The low four and two bits of each byte of a word. Codes are packed eight at a time: numpy shifts words, not bytes, at
full speed, and a code has no bits that a shift could move into the next byte."""


def encode(values: Floats, dtype: DType) -> bytes:
    """The bytes of a tensor; matrices in K-quants take whole blocks per row, padded with zeros.

    Float types round to nearest even. Raises OutputError for a type without an encoder.
    """
    values = np.ascontiguousarray(values, np.float32)
    if dtype.name == "BF16":
        halves = np.empty(values.shape, np.uint16)
        flat, out = values.reshape(-1), halves.reshape(-1)
        in_parts(lambda part: round_to_bf16(flat[part], out[part]), flat.size, 1)
        return halves.tobytes()
    if dtype.name == "AprQ8":
        return b"".join(encode_parts(lambda: iter((values.reshape(-1),)), dtype))
    if dtype.name in _ENCODERS:
        return _blocks(values, dtype)
    if dtype.is_float and dtype.name in PLAIN:
        return values.astype(PLAIN[dtype.name]).tobytes()
    raise OutputError(f"aprnb cannot encode {dtype.name}", expected=f"F32, F16, BF16, AprQ8, {', '.join(_ENCODERS)}")


def encode_parts(parts: Callable[[], Iterable[Floats]], dtype: DType) -> Iterator[bytes]:
    """The same from flat parts in C order, each but the last a whole number of blocks long.

    `parts` is called twice for AprQ8, whose one scale needs the tensor's largest magnitude first.
    """
    if dtype.name != "AprQ8":
        for part in parts():
            yield encode(part, dtype)
        return
    peaks = [_peak(part) for part in parts() if part.size]
    if peaks:
        scale = _apr_q8_scale(max(peaks))
        yield scale.tobytes()
        for part in parts():
            yield _apr_q8_codes(part, scale)


def can_encode(dtype: DType, shape: tuple[int, ...]) -> bool:
    """Whether every reader decodes the result alike: K-quants only in matrices whose rows are whole blocks."""
    return not dtype.padded_rows or (len(shape) == 2 and shape[1] % dtype.block_elements == 0)


def stays_float32(name: str, elements: int) -> bool:
    """What the `apr` tool never quantises: biases, norms, and tensors below 1024 elements."""
    kept = ("bias", "layernorm", "layer_norm", "norm.weight")
    return elements < 1024 or any(part in name for part in kept)


def _blocks(values: Floats, dtype: DType) -> bytes:
    width = dtype.block_elements
    rows = values if dtype.padded_rows and values.ndim == 2 else values.reshape(1, -1)
    if rows.size and rows.shape[1] % width:
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % width)))
    units = rows.reshape(-1, width)
    out = np.empty((len(units), dtype.block_bytes), np.uint8)
    encoder = _ENCODERS[dtype.name]
    in_parts(lambda part: encoder(units[part], out[part]), len(units), width)
    if dtype.name == "AprQ4" and values.size % width:
        _clear_unused_nibbles(out[-1], values.size % width)
    return out.tobytes()


def _clear_unused_nibbles(block: Bytes, used: int) -> None:
    """In a last, partial block the tool leaves the nibbles behind its elements at 0."""
    block[2 + (used + 1) // 2 :] = 0
    if used % 2:
        block[2 + used // 2] &= 15


def _codes(values: Floats, low: int, high: int) -> NDArray[np.int8]:
    """Round to whole numbers within bounds, halves away from zero; overwrites `values`."""
    # Add the largest float below 1/2 with the value's sign, then truncate: adding 1/2 would round 0.49999997 up to 1.
    np.clip(values, np.float32(low), np.float32(high), out=values)
    half = values.view(np.uint32) & _SIGN
    half |= _BELOW_HALF
    values += half.view(np.float32)
    return values.astype(np.int8)


def _reduced(operation: np.ufunc, values: Floats, width: int) -> Floats:
    """Minimum or maximum of each run of `width` values; `reduceat` is faster than an axis of 16 or 32."""
    flat = values.reshape(-1)
    result: Floats = operation.reduceat(flat, np.arange(0, flat.size, width))
    return result


def _apr_q8_scale(peak: np.float32) -> np.float32:
    """max/127, or 1 for zeros."""
    return np.float32(peak / np.float32(127)) if peak > 0 else np.float32(1)


def _apr_q8_codes(values: Floats, scale: np.float32) -> bytes:
    codes = np.empty(values.size, np.int8)

    def work(part: slice) -> None:
        codes[part] = _codes(values[part] / scale, -127, 127)

    in_parts(work, values.size, 1)
    return codes.tobytes()


def _peak(values: Floats) -> np.float32:
    return np.float32(max(values.max(), -values.min()))


def _apr_q4(values: Floats, out: Bytes) -> None:
    """Scale max/7 per 32 elements; the codes use it before it is rounded to f16."""
    peak = _reduced(np.maximum, np.abs(values), 32)
    scale = np.where(peak > 0, peak / np.float32(7), np.float32(1)).astype(np.float32)
    codes = _codes(values / np.repeat(scale, 32).reshape(values.shape), -8, 7)
    codes += np.int8(8)
    pairs = codes.view(np.uint16)  # the first code in the low byte; shifted by 4, the second becomes its high nibble
    out[:, :2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
    out[:, 2:] = (pairs | pairs >> 4).astype(np.uint8)


def _floored(values: Floats, divisor: float) -> Floats:
    return np.where(values > _TINY, values / np.float32(divisor), _TINY).astype(np.float32)


def _q4_k(values: Floats, out: Bytes) -> None:
    """Range/15 and −minimum of each sub-block of 32, both in 6 bits of their block's largest."""
    low, high = (_reduced(operation, values, 32).reshape(-1, 8) for operation in (np.minimum, np.maximum))
    sub_scale = _floored(high - low, 15)
    sub_minimum: Floats = np.maximum(-low, np.float32(0))
    d, dmin = _floored(sub_scale.max(axis=1), 63), _floored(sub_minimum.max(axis=1), 63)
    scales = _codes(sub_scale / d[:, None], 0, 63).view(np.uint8)
    minima = _codes(sub_minimum / dmin[:, None], 0, 63).view(np.uint8)
    step, shift = d[:, None] * scales, dmin[:, None] * minima
    shifted = np.repeat(shift, 32, axis=1)
    shifted += values
    shifted /= np.repeat(np.where(step > _SUB_TINY, step, np.float32(np.inf)), 32, axis=1)  # code 0 where it is 0
    runs = _codes(shifted, 0, 15).view(np.uint64).reshape(-1, 4, 2, 4)
    out[:, 0:4] = np.stack((d, dmin), axis=1).astype("<f2").view(np.uint8).reshape(-1, 4)
    _pack_six_bits(scales, minima, out)
    out[:, 16:] = (runs[:, :, 0] | runs[:, :, 1] << np.uint64(4)).view(np.uint8).reshape(-1, 128)


def _pack_six_bits(scales: Bytes, minima: Bytes, out: Bytes) -> None:
    out[:, 4:8] = (scales[:, :4] & 63) | ((scales[:, 4:] & 0x30) << 2)
    out[:, 8:12] = (minima[:, :4] & 63) | ((minima[:, 4:] & 0x30) << 2)
    out[:, 12:16] = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)


def _q6_k(values: Floats, out: Bytes) -> None:
    """Largest/31 of each sub-block of 16, in signed bytes of the block's largest; codes −32 … 31."""
    sub_scale = _floored(_reduced(np.maximum, np.abs(values), 16).reshape(-1, 16), 31)
    d = _floored(sub_scale.max(axis=1), 127)
    scales = _codes(sub_scale / d[:, None], -127, 127)
    step = d[:, None] * scales
    inverse = np.where(np.abs(step) > _SUB_TINY, np.float32(1) / step, np.float32(0)).astype(np.float32)
    scaled = np.repeat(inverse, 16, axis=1)
    scaled *= values
    codes = _codes(scaled, -32, 31)
    codes += np.int8(32)
    quarters = codes.view(np.uint64).reshape(-1, 2, 4, 4)
    low = (quarters[:, :, :2] & _NIBBLES) | ((quarters[:, :, 2:] & _NIBBLES) << np.uint64(4))
    high = (quarters >> np.uint64(4)) & _PAIRS
    out[:, 0:128] = low.reshape(-1, 16).view(np.uint8)
    shifts = np.arange(0, 8, 2, dtype=np.uint64)[:, None]
    out[:, 128:192] = np.bitwise_or.reduce(high << shifts, axis=2).reshape(-1, 8).view(np.uint8)
    out[:, 192:208] = scales.view(np.uint8)
    out[:, 208:210] = d.astype("<f2").view(np.uint8).reshape(-1, 2)


_ENCODERS: dict[str, Encoder] = {"AprQ4": _apr_q4, "Q4_K": _q4_k, "Q6_K": _q6_k}
