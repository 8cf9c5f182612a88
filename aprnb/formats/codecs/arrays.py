"""Names of array types, and work on a large array in parts that fit a core's cache, on two threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.uint16]

PART_ELEMENTS = 1 << 19
"""Elements at a time: 2 MiB of float32 with few temporaries stay near a core; smaller parts cost more in calls."""
_THREADS = min(2, os.cpu_count() or 1)
_WORTH_A_THREAD = 1 << 21


def parts(count: int, elements_each: int) -> Iterator[slice]:
    """Slices over `count` units of `elements_each` elements, of about PART_ELEMENTS each."""
    step = max(1, PART_ELEMENTS // max(1, elements_each))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def in_parts(work: Callable[[slice], None], count: int, elements_each: int) -> None:
    """Calls `work` for every part; large arrays on two threads, since numpy lets go of the interpreter's lock.

    NaN and infinite scales are the file's own: statistics and loading name them, numpy need not remark on them.
    """

    def quietly(part: slice) -> None:
        with np.errstate(all="ignore"):
            work(part)

    if _THREADS == 1 or count * elements_each < _WORTH_A_THREAD:
        for part in parts(count, elements_each):
            quietly(part)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(quietly, parts(count, elements_each)):
            pass


def float16_at(blocks: Bytes, start: int) -> Floats:
    """The f16 at byte `start` of every block, as a float32 column."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def round_to_bf16(values: Floats, out: Halves) -> None:
    """Contiguous float32 to bfloat16 bit patterns, to the nearest, ties to even; NaN becomes 0x7FC0."""
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += 0x7FFF
    rounded >>= 16
    np.copyto(out, rounded, casting="unsafe")
    flat = values.reshape(-1)
    if not np.isfinite(np.dot(flat, flat)):  # one quick pass where all is well
        out[np.isnan(values)] = 0x7FC0
