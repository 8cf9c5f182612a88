"""The device of a run and its free memory (torch inside functions only)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aprnb.tuning.planning.memory_use import process_bytes

if TYPE_CHECKING:
    from aprnb.model.device import Placement


@dataclass(frozen=True)
class DeviceFacts:
    """Where the run takes place; `dtype` is that of the computation.

    `available_bytes` is what this process can have: the free memory, and on a CPU what the process already has.

    `dtype_reason` says why it was chosen; `is_emulated` that the device has no instructions for it.
    """

    device: str
    name: str
    dtype: str
    available_bytes: int
    dtype_reason: str = ""
    is_emulated: bool = False

    @property
    def kind(self) -> str:
        """`cuda` of `cuda:0`."""
        return self.device.partition(":")[0]


def device_facts(placement: Placement) -> DeviceFacts:
    """The device's name, dtype and free memory."""
    import torch

    from aprnb.model.memory import free_bytes

    device, available = placement.device, free_bytes(placement.device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        available += process_bytes()
        name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    reason, is_emulated = placement.dtype_reason, placement.is_emulated
    return DeviceFacts(str(device), name, placement.dtype_name, available, reason, is_emulated)
