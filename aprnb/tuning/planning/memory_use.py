"""How much memory the process takes, and the most that it took since a run began (torch inside functions only)."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def process_bytes() -> int:
    """What the process has in memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def begin_peak(device: torch.device) -> bool:
    """Starts a new peak; false where the system only has that of the whole process, which `peak_bytes` then reports."""
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()  # what torch keeps of earlier work is no part of the run
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with suppress(OSError):
        _RESET.write_text("5")  # proc(5): the high-water mark becomes what is in use now
        return True
    return False


def peak_bytes(device: torch.device) -> int:
    """The most that torch has reserved on a GPU, or that the process has had in memory, since `begin_peak`."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_reserved(device)
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """The most that the process has had in memory, since `begin_peak` where the system can say."""
    return _kernel_peak() or _process_peak()


def _kernel_peak() -> int:
    """Linux's high-water mark; 0 on other systems."""
    with suppress(OSError):
        lines = _STATUS.read_text("ascii", "replace").splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
    return 0


def _process_peak() -> int:
    """The peak of the process since it started, in the other systems' ways."""
    if os.name == "nt":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10  # macOS counts bytes, the others KiB
