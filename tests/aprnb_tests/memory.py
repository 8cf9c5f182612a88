"""The most memory that this process has held, without what its parent held (which `ru_maxrss` counts in)."""

from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak() -> int:
    """Bytes, since the start or since the peak was forgotten; 0 where the system does not tell."""
    if not _STATUS.exists():
        return 0
    lines = _STATUS.read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def forget_peak() -> int:
    """Starts counting anew from what is held now, and returns that."""
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5")
    return peak()
