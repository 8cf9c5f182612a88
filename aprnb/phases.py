"""What long work is doing: phases such as "loading 120/291", told to a function as they happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL_S = 0.5
"""Between two counts of one phase."""


@dataclass(frozen=True)
class Phase:
    """Work that takes time, such as "loading"; `done` of `total` units, where they can be counted.

    A phase with other counts and the same name continues the one before.
    """

    name: str
    done: int | None = None
    total: int | None = None

    def __str__(self) -> str:
        return self.name if self.total is None else f"{self.name} {self.done:,}/{self.total:,}"


OnPhase = Callable[[Phase], object]
IMPORTING = Phase("importing torch")
"""Takes seconds, in each process once."""


def silent(_: Phase) -> None: ...


class Pace:
    """Says when the next count of a phase is due: at once or `after_s`, and then twice a second."""

    def __init__(self, after_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._next_s = clock, clock() + after_s

    def is_due(self) -> bool:
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + INTERVAL_S
        return True


class Counted:
    """A phase of `total` units, told when it begins and at most twice a second; call it for each, from any thread."""

    def __init__(self, tell: OnPhase, name: str, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._name, self._total = tell, name, total
        self._done, self._pace, self._lock = 0, Pace(INTERVAL_S, clock), threading.Lock()
        tell(Phase(name, 0, total))

    def __call__(self) -> None:
        with self._lock:
            self._done += 1
            if self._pace.is_due():
                self._tell(Phase(self._name, self._done, self._total))
