"""The same numbers in the blocks of another format: GGML's Q4_0 and Q8_0, and AprQ4 and AprQ8 of the `apr` tool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from aprnb.formats.codecs.arrays import Bytes, Floats, float16_at

_SMALLEST_SCALE = np.float32(6.1e-5)
"""The tool reads a smaller scale of an AprQ4 block as 0."""


def q4_0_to_apr(blocks: Bytes) -> Bytes:
    """Neighbours in one byte in place of elements 16 apart; scales and codes are the same."""
    packed = blocks[:, 2:]
    codes = np.concatenate((packed & np.uint8(15), packed >> np.uint8(4)), axis=1)
    return _joined(blocks, codes[:, ::2] | (codes[:, 1::2] << np.uint8(4)))


def apr_q4_to_ggml(blocks: Bytes) -> Bytes:
    """The inverse."""
    packed = blocks[:, 2:]
    codes = np.stack((packed & np.uint8(15), packed >> np.uint8(4)), axis=2).reshape(-1, 32)
    return _joined(blocks, codes[:, :16] | (codes[:, 16:] << np.uint8(4)))


def keeps_q4_scales(parts: Iterable[Bytes]) -> bool:
    """Whether the tool reads every scale of these Q4_0 blocks as it is."""
    return all(bool(((scales == 0) | (np.abs(scales) >= _SMALLEST_SCALE)).all()) for scales in map(_scales, parts))


def common_q8_scale(parts: Iterable[Bytes]) -> np.float32 | None:
    """The least scale of these Q8_0 blocks, if all their values are multiples of it from −128 to 127.

    `parts` is read once, up to the first blocks that exclude it.
    """
    least, low, high, scales = np.float32(np.inf), np.float32(0), np.float32(0), set[float]()
    for blocks in parts:
        here, codes = _scales(blocks), blocks[:, 2:].view(np.int8)
        if not (np.isfinite(here) & ((here > 0) | (codes == 0).all(axis=1))).all():
            return None
        least = min(least, here[here > 0].min(initial=np.float32(np.inf)))
        low = min(low, (here * codes.min(axis=1)).min(initial=np.float32(0)))
        high = max(high, (here * codes.max(axis=1)).max(initial=np.float32(0)))
        if high > 127 * least or low < -128 * least:
            return None
        scales.update(np.unique(here).tolist())
    if not np.isfinite(least):
        return np.float32(1)
    return least if all(scale % float(least) == 0 for scale in scales) else None


def q8_0_to_apr(parts: Iterable[Bytes], scale: np.float32) -> Iterator[bytes]:
    """The scale of the tensor, then a code for each element; `scale` is that of `common_q8_scale`."""
    yield scale.tobytes()
    for blocks in parts:
        factors = (_scales(blocks) / scale).astype(np.int16)
        yield (blocks[:, 2:].view(np.int8) * factors[:, None]).astype(np.int8).tobytes()


def apr_q8_to_ggml(codes: Bytes, scale: np.float32) -> Bytes:
    """Blocks of 32 codes that all have `scale`, which float16 must hold exactly."""
    rows = codes.reshape(-1, 32)
    half = np.frombuffer(scale.astype("<f2").tobytes(), np.uint8)
    return np.concatenate((np.broadcast_to(half, (len(rows), 2)), rows), axis=1)


def _scales(blocks: Bytes) -> Floats:
    return float16_at(blocks, 0)[:, 0]


def _joined(blocks: Bytes, packed: Bytes) -> Bytes:
    return np.concatenate((blocks[:, :2], packed), axis=1)
