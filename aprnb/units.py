"""Bytes, counts and durations as text."""

from __future__ import annotations


def bytes_text(count: int) -> str:
    """`1,756,036` → `1.67 MiB`; exact below 1 KiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{count} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def count_text(count: int) -> str:
    """`8190735360` → `8,190,735,360 (8.19 B)`; plain below one million."""
    for limit, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if count >= limit:
            return f"{count:,} ({count / limit:.2f} {letter})"
    return f"{count:,}"


def duration_text(seconds: float) -> str:
    """`3725.0` → `1 h 02 min`; seconds with one decimal below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
