"""When to refresh: at most five times a second, and with a small part of the time spent on it."""

from __future__ import annotations

_BETWEEN_S = 0.2
_SHARE = 0.02


class Pace:
    """All times are seconds of one clock, which the caller reads."""

    def __init__(self, now_s: float) -> None:
        self._next_s = now_s

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for the next refresh."""
        return now_s >= self._next_s

    def refreshed(self, start_s: float, end_s: float) -> None:
        """Notes a refresh; a slow one is followed by a longer pause."""
        self._next_s = max(start_s + _BETWEEN_S, end_s + (end_s - start_s) / _SHARE)
