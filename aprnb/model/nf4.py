"""4-bit quantisation on a CPU with the same arithmetic as bitsandbytes, several times as fast.

bitsandbytes searches the sorted midpoints between codes for every element. Counting the midpoints that an element
exceeds gives the same code, and numpy compares all elements of a part with one midpoint at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import library as operators

from aprnb.formats.codecs.arrays import Bytes, Floats, in_parts

_TINY = np.float32(1e-38)


@contextmanager
def quick_4bit() -> Iterator[None]:
    """Register the kernel below for bitsandbytes' 4-bit quantisation of CPU tensors, and remove it at the end.

    A kernel that is registered already, by another load or by bitsandbytes itself, is used instead.
    """
    import bitsandbytes  # noqa: F401  defines the operator

    if torch._C._dispatch_has_kernel_for_dispatch_key("bitsandbytes::quantize_4bit", "CPU"):
        yield
        return
    kernels = operators.Library("bitsandbytes", "IMPL")
    kernels.impl("quantize_4bit", quantize_4bit, "CPU")
    try:
        yield
    finally:
        del kernels  # a library unregisters its kernels when it is deleted


def quantize_4bit(
    values: torch.Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two codes per byte [⌈n/2⌉, 1], the first in the high nibble, and the largest magnitude of each block, float32.

    The same bits as `bitsandbytes::quantize_4bit` of bitsandbytes' default backend.
    """
    from bitsandbytes.functional import get_4bit_type

    code = get_4bit_type(quant_type, device="cpu").numpy()
    order = np.argsort(code).astype(np.uint8)
    midpoints = (code[order[:-1]] + code[order[1:]]) / np.float32(2)
    flat = values.detach().reshape(-1)
    whole = flat.numel() // blocksize
    codes = np.zeros(flat.numel() + flat.numel() % 2, np.uint8)
    largest = np.empty(-(-flat.numel() // blocksize), np.float32)

    def work(part: slice) -> None:
        inside = slice(part.start * blocksize, part.stop * blocksize)
        blocks = _float32(flat[inside]).reshape(-1, blocksize)
        largest[part] = np.abs(blocks).max(axis=1)
        # Times the reciprocal, as bitsandbytes does: a division may give the next code close to a midpoint.
        blocks *= (np.float32(1) / np.maximum(largest[part], _TINY))[:, None]
        _count_exceeded(blocks.reshape(-1), midpoints, codes[inside])

    in_parts(work, whole, blocksize)
    rest = slice(whole * blocksize, flat.numel())
    if rest.start < rest.stop:
        last = _float32(flat[rest])
        largest[whole] = max(np.abs(last).max(), _TINY)
        _count_exceeded(last / largest[whole], midpoints, codes[rest])  # bitsandbytes divides the last, partial block
        codes[rest.stop :] = (midpoints < 0).sum()  # bitsandbytes pads with the code of 0
    if quant_type != "nf4":
        codes = order[codes]
    packed = codes[::2] << 4
    packed |= codes[1::2]
    return torch.from_numpy(packed).view(quant_storage).unsqueeze(1), torch.from_numpy(largest)


def _float32(values: torch.Tensor) -> Floats:
    numbers: Floats = values.to(torch.float32, copy=True).numpy()
    return numbers


def _count_exceeded(values: Floats, midpoints: Floats, counts: Bytes) -> None:
    exceeded = np.empty(values.size, np.bool_)
    for midpoint in midpoints:
        np.greater(values, midpoint, out=exceeded)
        counts += exceeded.view(np.uint8)
