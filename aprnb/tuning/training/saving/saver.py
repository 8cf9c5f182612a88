"""Saves a run's states: when one is due, at the best evaluation so far, and as soon as there is space on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aprnb.errors import NoSpace
from aprnb.tuning.planning.saving import SaveRule
from aprnb.tuning.training.events import Event, Notice, Saved
from aprnb.tuning.training.interrupt import Interrupt
from aprnb.tuning.training.saving.state import RunState

_LOOK_AGAIN_S = 5.0


class Saver:
    """`write` stores a state and returns its path; without one nothing is saved.

    `best` is the step with the lowest held-out loss so far, and that loss; `kept` says what is on the disk.
    """

    def __init__(self, write: Callable[[RunState], Path] | None, rule: SaveRule, interrupt: Interrupt) -> None:
        self._write, self._rule, self._interrupt = write, rule, interrupt
        self.best: tuple[int, float] | None = None
        self._saved_step, self._saved_at_s = -1, time.monotonic()
        self.kept = "no state is saved"

    def resume(self, state: RunState) -> None:
        """Goes on from a state that is on the disk."""
        self.best, self._saved_step = state.best, state.step
        self.kept = f"the state after step {state.step} is saved: --resume continues it"

    def evaluated(self, step: int, loss: float) -> None:
        """Takes note of an evaluation."""
        if self.best is None or loss < self.best[1]:
            self.best = (step, loss)

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` is to be saved, by the rule or as the best so far."""
        is_best = self.best is not None and self.best[0] == step
        return is_best or self._rule.is_due(step, time.monotonic() - self._saved_at_s)

    def would_save(self, step: int) -> bool:
        """Whether the state after `step` is to be written and is not yet."""
        return self._write is not None and self._saved_step != step

    def save(self, state: RunState) -> Iterator[Event]:
        """Saves `state`, unless its step is saved already.

        Where the disk is full, the run waits until there is space, or until it is asked to stop.
        """
        if self._write is None or self._saved_step == state.step:
            return
        try:
            path: Path | None = self._write(state)
        except NoSpace as error:
            yield Notice("warning", f"{error.found}: the run waits until there is space, or until it is stopped")
            path = self._when_possible(state)
        if path is not None:
            self._saved_step, self._saved_at_s = state.step, time.monotonic()
            self.kept = f"the state after step {state.step} is saved in {path}: --resume continues it"
            yield Saved(state.step, str(path))

    def _when_possible(self, state: RunState) -> Path | None:
        """Where the state was saved; None where a stop was requested first."""
        assert self._write
        while not self._interrupt.wait(_LOOK_AGAIN_S):
            try:
                return self._write(state)
            except NoSpace:
                continue
        return None
