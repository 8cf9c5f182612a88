"""Names of array types, and work on a large array in parts that fit a core's cache, on two threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.uint16]

PART_ELEMENTS = 3 << 18
"""Elements at a time, 3 MiB of float32: with smaller parts two threads wait for each other between the calls."""
_SIGN, _BELOW_HALF = np.uint32(1 << 31), np.float32(np.nextafter(np.float32(0.5), np.float32(0))).view(np.uint32)
_THREADS = min(2, os.cpu_count() or 1)
_WORTH_A_THREAD = 1 << 21
"""Elements from which on a second thread saves more than it takes to start."""


def parts(count: int, elements_each: int) -> Iterator[slice]:
    """Slices over `count` units of `elements_each` elements: about PART_ELEMENTS elements in each slice."""
    step = max(1, PART_ELEMENTS // max(1, elements_each))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def in_parts(work: Callable[[slice], None], count: int, elements_each: int) -> None:
    """Call `work` for every part; on two threads for large arrays, since numpy releases the interpreter's lock.

    numpy's warnings on NaN and infinite scales are off: statistics and loading report such values.
    """
    # Both threads take from the iterator of a list; a generator raises where two of them advance it at once.
    waiting = iter(list(parts(count, elements_each)))

    def run() -> None:
        with np.errstate(all="ignore"):
            for part in waiting:
                work(part)

    try:
        if _THREADS == 1 or count * elements_each < _WORTH_A_THREAD:
            run()
            return
        with ThreadPoolExecutor(_THREADS - 1) as pool:
            others = [pool.submit(run) for _ in range(_THREADS - 1)]
            run()
        for other in others:
            other.result()
    finally:
        # One unit may be longer than a part (a wide padded row): this thread must not keep that much memory.
        for name in [name for name, held in vars(_ROOM).items() if held.size > PART_ELEMENTS]:
            delattr(_ROOM, name)


def codes_of(values: Floats, low: int, high: int) -> NDArray[np.int8]:
    """Round to whole numbers within bounds, halves away from zero; overwrites `values`."""
    # Add the largest float below 1/2 with the value's sign, then truncate: adding 1/2 would round 0.49999997 up to 1.
    np.clip(values, np.float32(low), np.float32(high), out=values)
    half = values.view(np.uint32) & _SIGN
    half |= _BELOW_HALF
    values += half.view(np.float32)
    return values.astype(np.int8)


def reduced(operation: np.ufunc, values: Floats, width: int) -> Floats:
    """Minimum or maximum of each run of `width` values; `reduceat` is faster than an axis of 16 or 32."""
    flat = values.reshape(-1)
    result: Floats = operation.reduceat(flat, np.arange(0, flat.size, width))
    return result


_ROOM = threading.local()


def room(name: str, shape: tuple[int, ...]) -> Floats:
    """This thread's own float32 memory, kept for the next part: to map new pages takes as long as the work itself."""
    size = prod(shape)
    held: Floats | None = getattr(_ROOM, name, None)
    if held is None or held.size < size:
        held = np.empty(size, np.float32)
        setattr(_ROOM, name, held)
    return held[:size].reshape(shape)


def float16_at(blocks: Bytes, start: int) -> Floats:
    """The f16 at byte `start` of every block, as a float32 column."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def round_to_bf16(values: Floats, out: Halves) -> None:
    """Contiguous float32 to bfloat16 bit patterns, to the nearest, ties to even; NaN becomes 0x7FC0."""
    # Half a unit of the last kept bit, less one, plus that bit: the sum carries into the kept half above a tie, and in
    # a tie only where the kept bit is odd. NaN may overflow into another number, so it is set at the end.
    values, out = values.reshape(-1), out.reshape(-1)
    for part in parts(values.size, 2):  # half a part's memory
        bits, halves = values[part].view(np.uint32), out[part]
        rounded = room("rounded", bits.shape).view(np.uint32)
        np.right_shift(bits, 16, out=rounded)
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        np.copyto(halves, rounded, casting="unsafe")
    if not np.isfinite(np.dot(values, values)):  # one fast pass; it also overflows for large values without NaN
        out[np.isnan(values)] = 0x7FC0
