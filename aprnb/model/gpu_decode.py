"""Decodes block-quantised bytes on a GPU: the file's bytes cross the bus, not the larger values.

Layouts and order of operations are those of the functions in `formats.codecs`, so that both give the same bits: a
product before a difference, in float32, rounded to the target's dtype at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch

from aprnb.formats.dtypes import DType

PART_ELEMENTS = 1 << 24
"""Elements at a time: 64 MiB of float32 and a few temporaries on the device."""

Blocks = torch.Tensor
"""uint8 [n, block bytes]; each decoder returns float32 [n, block elements]."""


def can_decode(dtype: DType, shape: tuple[int, ...], size_bytes: int) -> bool:
    """Whether `decode_on` knows the type, and the tensor is whole blocks without padded rows."""
    elements = prod(shape)
    return (
        dtype.name in _DECODERS
        and elements % dtype.block_elements == 0
        and (size_bytes == elements // dtype.block_elements * dtype.block_bytes)
    )


def decode_on(
    device: torch.device, raw: bytearray, dtype: DType, shape: tuple[int, ...], target: torch.dtype
) -> torch.Tensor:
    """The tensor of `shape` in `target` on `device`. Where `can_decode` is false, use `formats.codecs.decode`."""
    decoder, elements = _DECODERS[dtype.name], dtype.block_elements
    # Only this copy waits for the GPU: the kernels below are queued.
    blocks = torch.frombuffer(raw, dtype=torch.uint8).to(device).reshape(-1, dtype.block_bytes)
    values = torch.empty((len(blocks), elements), dtype=target, device=device)
    step = PART_ELEMENTS // elements
    for start in range(0, len(blocks), step):
        values[start : start + step] = decoder(blocks[start : start + step])
    return values.reshape(shape)


def _apr_q4(blocks: Blocks) -> torch.Tensor:
    pairs = torch.stack((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), dim=-1).reshape(-1, 32)
    return (pairs.float() - 8) * _halves(blocks, 0, 1)


def _q8_0(blocks: Blocks) -> torch.Tensor:
    return _signed(blocks, 2, 34) * _halves(blocks, 0, 1)


def _q4_k(blocks: Blocks) -> torch.Tensor:
    low, middle, high = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scale = torch.cat((low & 63, (high & 15) | (low >> 6 << 4)), dim=1).float() * _halves(blocks, 0, 1)
    minimum = torch.cat((middle & 63, (high >> 4) | (middle >> 6 << 4)), dim=1).float() * _halves(blocks, 1, 2)
    codes = _shifted(blocks[:, 16:].reshape(-1, 4, 1, 32), (0, 4), 15).reshape(-1, 8, 32).float()
    return (codes * scale[:, :, None] - minimum[:, :, None]).reshape(-1, 256)


def _q6_k(blocks: Blocks) -> torch.Tensor:
    low = _shifted(blocks[:, 0:128].reshape(-1, 2, 1, 64), (0, 4), 15).reshape(-1, 256)
    high = _shifted(blocks[:, 128:192].reshape(-1, 2, 1, 32), (0, 2, 4, 6), 3).reshape(-1, 256)
    codes = (low | high << 4).float() - 32
    scale = _signed(blocks, 192, 208) * _halves(blocks, 104, 105)
    return (codes.reshape(-1, 16, 16) * scale[:, :, None]).reshape(-1, 256)


_DECODERS: dict[str, Callable[[Blocks], torch.Tensor]] = {
    "AprQ4": _apr_q4,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}


def _shifted(packed: torch.Tensor, shifts: tuple[int, ...], mask: int) -> torch.Tensor:
    """`packed` [n, runs, 1, width] to the codes at each shift [n, runs, shifts, width]."""
    by = torch.tensor(shifts, dtype=torch.uint8, device=packed.device)
    return packed >> by[:, None] & mask


def _halves(blocks: Blocks, start: int, stop: int) -> torch.Tensor:
    """The f16 numbers `start` to `stop`, counted from the start of the block, as float32 columns."""
    return blocks[:, 2 * start : 2 * stop].contiguous().view(torch.float16).float()


def _signed(blocks: Blocks, start: int, stop: int) -> torch.Tensor:
    return blocks[:, start:stop].contiguous().view(torch.int8).float()
