"""Float32 values to raw tensor bytes: float types, the block formats of the `apr` tool, and GGML's.

AprQ8, AprQ4 and Q4_K have the bytes that the tool writes, the blocks of 32 those that llama.cpp writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from aprnb.errors import OutputError
from aprnb.formats.codecs import k_quant_encoders, small_block_encoders
from aprnb.formats.codecs.arrays import Bytes, Floats, codes_of, in_parts, reduced, round_to_bf16
from aprnb.formats.codecs.decoding import PLAIN
from aprnb.formats.dtypes import DType

Encoder = Callable[[Floats, Bytes], None]


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
        return _blocks(values, dtype, _ENCODERS[dtype.name])
    if dtype.is_float and dtype.name in PLAIN:
        return values.astype(PLAIN[dtype.name]).tobytes()
    raise OutputError(f"aprnb cannot encode {dtype.name}", expected=f"F32, F16, BF16, AprQ8, {', '.join(_ENCODERS)}")


def encode_for_gguf(values: Floats, dtype: DType) -> bytes:
    """The same where no reader compares with the tool's bytes: Q4_K keeps small weights that the tool loses."""
    if dtype.name == "Q4_K":
        return _blocks(np.ascontiguousarray(values, np.float32), dtype, k_quant_encoders.q4_k_fine)
    return encode(values, dtype)


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


def _blocks(values: Floats, dtype: DType, encoder: Encoder) -> bytes:
    width = dtype.block_elements
    rows = values if dtype.padded_rows and values.ndim == 2 else values.reshape(1, -1)
    if rows.size and rows.shape[1] % width:
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % width)))
    units = rows.reshape(-1, width)
    out = np.empty((len(units), dtype.block_bytes), np.uint8)
    in_parts(lambda part: encoder(units[part], out[part]), len(units), width)
    if dtype.name == "AprQ4" and values.size % width:
        _clear_unused_nibbles(out[-1], values.size % width)
    return out.tobytes()


def _clear_unused_nibbles(block: Bytes, used: int) -> None:
    """In a last, partial block the tool leaves the nibbles behind its elements at 0."""
    block[2 + (used + 1) // 2 :] = 0
    if used % 2:
        block[2 + used // 2] &= 15


def _apr_q8_scale(peak: np.float32) -> np.float32:
    """max/127, or 1 for zeros."""
    return np.float32(peak / np.float32(127)) if peak > 0 else np.float32(1)


def _apr_q8_codes(values: Floats, scale: np.float32) -> bytes:
    codes = np.empty(values.size, np.int8)

    def work(part: slice) -> None:
        codes[part] = codes_of(values[part] / scale, -127, 127)

    in_parts(work, values.size, 1)
    return codes.tobytes()


def _peak(values: Floats) -> np.float32:
    return np.float32(max(values.max(), -values.min()))


def _apr_q4(values: Floats, out: Bytes) -> None:
    """Scale max/7 per 32 elements; the codes use it before it is rounded to f16."""
    peak = reduced(np.maximum, np.abs(values), 32)
    scale = np.where(peak > 0, peak / np.float32(7), np.float32(1)).astype(np.float32)
    codes = codes_of(values / np.repeat(scale, 32).reshape(values.shape), -8, 7)
    codes += np.int8(8)
    pairs = codes.view(np.uint16)  # the first code in the low byte; shifted by 4, the second becomes its high nibble
    out[:, :2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
    out[:, 2:] = (pairs | pairs >> 4).astype(np.uint8)


_ENCODERS: dict[str, Encoder] = {
    "AprQ4": _apr_q4,
    "Q4_0": small_block_encoders.q4_0,
    "Q5_0": small_block_encoders.q5_0,
    "Q5_1": small_block_encoders.q5_1,
    "Q8_0": small_block_encoders.q8_0,
    "Q4_K": k_quant_encoders.q4_k,
    "Q5_K": k_quant_encoders.q5_k,
    "Q6_K": k_quant_encoders.q6_k,
}
