"""The free memory of a device, and what gives freed memory back."""

from __future__ import annotations

import gc

import torch

from aprnb.model.heap import trim_heap


def free_bytes(device: torch.device) -> int:
    """What a model can still take: on a GPU also what torch's allocator holds without using it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return int(psutil.virtual_memory().available)


def release_freed(device: torch.device) -> None:
    """Returns to the device or the system what nothing uses: torch and glibc both keep freed memory for themselves."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim_heap()
