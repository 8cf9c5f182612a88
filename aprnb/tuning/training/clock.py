"""How fast a run is and how long it will take."""

from __future__ import annotations

import time


class Clock:
    """Times optimizer steps. The first one warms up (allocator, kernels) and stays out of the forecast."""

    def __init__(self, total_steps: int, elapsed_s: float = 0.0) -> None:
        self._total_steps = total_steps
        self._begun = time.perf_counter() - elapsed_s
        self._step_begun = self._begun
        self._timed_steps = 0
        self._timed_s = 0.0
        self.is_first = True

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run so far, those before it was resumed included."""
        return time.perf_counter() - self._begun

    def start_step(self) -> None:
        self._step_begun = time.perf_counter()

    def end_step(self, step: int, tokens: int) -> tuple[float, float | None]:
        """Tokens per second of this step, and the seconds that the remaining ones will take (None until known).

        The caller has read the loss by now, so the device has finished.
        """
        seconds = time.perf_counter() - self._step_begun
        if not self.is_first:
            self._timed_steps += 1
            self._timed_s += seconds
        self.is_first = False
        remaining = self._timed_s / self._timed_steps * (self._total_steps - step) if self._timed_steps else None
        return tokens / seconds, remaining
