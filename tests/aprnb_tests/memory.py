"""The peak memory of this process, without that of its parent (which `ru_maxrss` includes)."""

from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak() -> int:
    """Bytes, since the start or the last `forget_peak`; 0 where the system does not report it."""
    if not _STATUS.exists():
        return 0
    lines = _STATUS.read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def forget_peak() -> int:
    """Resets the peak to the memory in use, and returns that."""
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5")
    return peak()
