"""How fast a run is and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from aprnb.tuning.planning.seconds import Forecast


class Mean:
    """Of the seconds of work that takes about the same time whenever it is done."""

    def __init__(self) -> None:
        self.count, self._seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        self.count, self._seconds = self.count + 1, self._seconds + seconds

    def value(self, expected: float) -> float:
        """The mean; `expected` where nothing was timed."""
        return self._seconds / self.count if self.count else expected

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around the work."""
        begun = time.perf_counter()
        yield
        self.add(time.perf_counter() - begun)


class Clock:
    """Times steps, evaluations and saved states; until one was timed, the forecast says how long each takes.

    The first step warms up (allocator, kernels) and stays out. Without a forecast nothing is known before the second.
    """

    def __init__(self, total_steps: int, elapsed_s: float = 0.0, forecast: Forecast = Forecast()) -> None:  # noqa: B008  frozen
        self._total_steps, self._forecast = total_steps, forecast
        self._begun = time.perf_counter() - elapsed_s
        self._step_begun = self._begun
        self._steps, self.evaluations, self.saves = Mean(), Mean(), Mean()
        self.is_first = True

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run so far, those before it was resumed included."""
        return time.perf_counter() - self._begun

    def start_step(self) -> None:
        self._step_begun = time.perf_counter()

    def end_step(self, step: int, tokens: int) -> tuple[float, float | None]:
        """Tokens per second of this step, and the seconds until the last file is written (None until known).

        The caller has read the loss by now, so the device has finished.
        """
        seconds = time.perf_counter() - self._step_begun
        if not self.is_first:
            self._steps.add(seconds)
        self.is_first = False
        return tokens / seconds, self._remaining_s(step)

    def _remaining_s(self, step: int) -> float | None:
        expected = self._forecast
        if expected.step is None and not self._steps.count:
            return None
        return (
            self._steps.value(expected.step or 0.0) * (self._total_steps - step)
            + self.evaluations.value(expected.evaluation) * sum(each >= step for each in expected.evaluated)
            + self.saves.value(expected.save) * sum(each >= step for each in expected.saved)
            + expected.results
        )
