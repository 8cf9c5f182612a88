"""The heap of the C library: glibc keeps the gaps that freed blocks leave. On other systems nothing is done."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE_BYTES = 1 << 20


def return_large_blocks() -> None:
    """From now on in this process, blocks of 1 MiB and more are returned to the system when they are freed.

    glibc raises this limit to 32 MiB by itself. Activations then leave gaps: a step of a model of 0.5 B parameters took
    1.2 GB more than its tensors. The system's new pages cost about 3 % of the time of a step.
    """
    set_option = _function("mallopt")
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE_BYTES)


class Heap:
    """Returns freed memory to the system at intervals: the gaps between small tensors.

    The gaps take a fifth of a model of 8 B parameters in NF4. Trimming after each tensor costs a third of the time.
    """

    every_bytes = 96 << 20

    def __init__(self) -> None:
        self._since = 0
        self._trim = _function("malloc_trim")

    def read(self, size_bytes: int) -> None:
        """Call before a tensor of the file is read."""
        self._since += size_bytes
        if self._trim is not None and self._since > self.every_bytes:
            self._trim(0)
            self._since = 0


def trim_heap() -> None:
    """Returns the gaps of the process's heap to the system."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    """A function of the C library, or None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
