"""How fast a run is and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class Clock:
    """Times optimizer steps, and evaluations after the steps `evaluations`.

    The first step warms up (allocator, kernels) and stays out of the forecast.
    """

    def __init__(self, total_steps: int, elapsed_s: float = 0.0, evaluations: Collection[int] = ()) -> None:
        self._total_steps, self._evaluations = total_steps, evaluations
        self._evaluated, self._evaluated_s = 0, 0.0
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
        """Tokens per second of this step, and the seconds that the rest takes, evaluations too (None until known).

        The caller has read the loss by now, so the device has finished.
        """
        seconds = time.perf_counter() - self._step_begun
        if not self.is_first:
            self._timed_steps += 1
            self._timed_s += seconds
        self.is_first = False
        if not self._timed_steps:
            return tokens / seconds, None
        steps_s = self._timed_s / self._timed_steps * (self._total_steps - step)
        to_evaluate = sum(each >= step for each in self._evaluations)
        return tokens / seconds, steps_s + self._evaluated_s / max(1, self._evaluated) * to_evaluate

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Around one evaluation of the held-out rows."""
        begun = time.perf_counter()
        yield
        self._evaluated, self._evaluated_s = self._evaluated + 1, self._evaluated_s + time.perf_counter() - begun
