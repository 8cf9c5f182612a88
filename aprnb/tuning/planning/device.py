"""The memory of a device, and how much of it a run uses (torch inside functions only)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from aprnb.model.device import Placement


@dataclass(frozen=True)
class DeviceFacts:
    """Where the run takes place; `available_bytes` is free memory now, `dtype` that of the computation."""

    device: str
    name: str
    dtype: str
    available_bytes: int

    @property
    def kind(self) -> str:
        """`cuda` of `cuda:0`."""
        return self.device.partition(":")[0]


def device_facts(placement: Placement) -> DeviceFacts:
    """The device's name, dtype and free memory."""
    import torch

    device = placement.device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return DeviceFacts(str(device), torch.cuda.get_device_name(device), placement.dtype_name, free)
    import psutil

    name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return DeviceFacts(str(device), name, placement.dtype_name, psutil.virtual_memory().available)


def memory_in_use(device: torch.device) -> int:
    """Bytes: the most that torch has held on a GPU so far, or what the process holds now on the CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import psutil

    return int(psutil.Process().memory_info().rss)
