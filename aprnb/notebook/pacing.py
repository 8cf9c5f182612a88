"""When to refresh after a step: numbers at most five times a second, the curve as often as 1 % of the run allows."""

from __future__ import annotations

_NUMBERS_S = 0.2
_DRAWING_SHARE = 0.01


class Pace:
    """All times are seconds of one clock, which the caller reads."""

    def __init__(self, now_s: float) -> None:
        self.start_s = now_s
        self.drawing_s = 0.0
        self._next_numbers_s = now_s
        self._last_drawing_s = 0.0

    def numbers_are_due(self, now_s: float) -> bool:
        if now_s < self._next_numbers_s:
            return False
        self._next_numbers_s = now_s + _NUMBERS_S
        return True

    def drawing_is_due(self, now_s: float) -> bool:
        """Whether one more drawing of the last one's duration keeps the total below its share."""
        return self.drawing_s + self._last_drawing_s <= _DRAWING_SHARE * (now_s - self.start_s)

    def expect(self, drawing_s: float) -> None:
        """Sets the duration of a drawing, measured before the run."""
        self._last_drawing_s = drawing_s

    def drew(self, drawing_s: float) -> None:
        self.drawing_s += drawing_s
        self._last_drawing_s = drawing_s

    def share(self, now_s: float) -> float:
        """Part of the elapsed time that was spent drawing."""
        return self.drawing_s / max(now_s - self.start_s, 1e-9)
