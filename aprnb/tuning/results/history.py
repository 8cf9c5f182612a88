"""What a run's events add up to: steps, evaluations, warnings, the last phase, and how it ended (no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aprnb.printable import message, visible
from aprnb.tuning.results.event_log import EventReader
from aprnb.tuning.training.events import (
    EvalEvent,
    Event,
    Finished,
    Notice,
    Phase,
    Saved,
    StepEvent,
    from_record,
    is_number,
    to_metrics_row,
)

WRITING_MODEL = "writing the model"
"""The phase in which the output is written: after it, a file under that name is the run's own."""
_MOST_WARNINGS, _MOST_CHARACTERS = 100, 2_000
_MARGIN = 1.05
"""A held-out loss that is this many times the lowest one is worth a warning."""


@dataclass
class History:
    """The records of `events.jsonl` so far; `take` adds one.

    `steps` and `evaluations` are rows of numbers in order, each step once: what a resumed run did again replaces what
    it had done before. `start` is the record of the process that writes, `end` the one with which it ended, if it did.
    A record may come from anywhere: what no run writes is left out.
    """

    start: Mapping[str, Any] = field(default_factory=dict)
    end: Mapping[str, Any] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    last_step: StepEvent | None = None
    phase: Phase | None = None
    saved: Saved | None = None
    trained: Finished | None = None
    wrote_model: bool = False
    peak_memory_bytes: int = 0

    def take(self, record: Mapping[str, Any]) -> Event | None:
        """Adds a record of `events.jsonl`; returns its event, None for the start, the end and what is not known."""
        if record["event"] == "start":
            self._begin(record)
        elif record["event"] == "end":
            self.end = _ending(record)
        event = from_record(record)
        if event is not None:
            self._add(event)
        return event

    def _begin(self, record: Mapping[str, Any]) -> None:
        self.start, self.end, self.trained = record, None, None
        self.warnings.clear()
        after = record.get("resumed_from")
        if not isinstance(after, int):
            self.last_step, self.saved, self.wrote_model, self.peak_memory_bytes = None, None, False, 0
        _drop_from(after + 1 if isinstance(after, int) else 0, self.steps, self.evaluations)

    def _add(self, event: Event) -> None:
        if isinstance(event, StepEvent | EvalEvent):
            rows = self.steps if isinstance(event, StepEvent) else self.evaluations
            _drop_from(event.step, rows)
            rows.append(to_metrics_row(event))
        if isinstance(event, StepEvent):
            self.last_step, self.phase = event, None
            self.peak_memory_bytes = max(self.peak_memory_bytes, event.memory_bytes)
        elif isinstance(event, Notice) and event.kind == "warning":
            self.warnings[:] = [*self.warnings, visible(event.text, _MOST_CHARACTERS)][-_MOST_WARNINGS:]
        elif isinstance(event, Phase):
            self.phase = event
            self.wrote_model |= event.name == WRITING_MODEL
        elif isinstance(event, Saved):
            self.saved = event
        elif isinstance(event, Finished):
            self.trained = event


def read_history(events: Path) -> History:
    """The history of the log at `events`; raises CheckpointError for anything but a regular file in its own folder."""
    history = History()
    for record in EventReader(events).new():
        history.take(record)
    return history


def _drop_from(step: int, *rows: list[dict[str, Any]]) -> None:
    """Removes what was done at `step` and after it."""
    for done in rows:
        while done and done[-1]["step"] >= step:
            done.pop()


def _ending(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `end` record that are what a run writes there."""
    check, error, peak = (record.get(name) for name in ("merge_check", "error", "peak_memory_bytes"))
    step = record.get("written_step")
    return {
        "status": record.get("status"),
        "output": record.get("output") is True,
        "adapter": record.get("adapter") is True,
        "peak_memory_bytes": max(0, peak) if isinstance(peak, int) and is_number(peak) else 0,
        **({"written_step": step} if isinstance(step, int) and is_number(step) else {}),
        "merge_check": check if isinstance(check, Mapping) and all(map(_is_number_or_none, check.values())) else None,
        "error": {name: _short(value) for name, value in error.items()} if isinstance(error, Mapping) else None,
    }


def _is_number_or_none(value: Any) -> bool:
    return value is None or is_number(value)


def _short(value: Any) -> Any:
    return value if _is_number_or_none(value) else message(str(value))[:_MOST_CHARACTERS]


class Evaluated(NamedTuple):
    """A step, and the held-out loss after it."""

    step: int
    loss: float


def best_evaluated(history: History) -> Evaluated | None:
    """The lowest held-out loss of the trained weights, which a state keeps; None where none was evaluated."""
    return min(_trained(history), key=lambda each: each.loss, default=None)


def written_evaluated(history: History) -> Evaluated | None:
    """The held-out loss of the written weights, or of the last ones so far; None where none was evaluated."""
    found = _trained(history)
    step = (history.end or {}).get("written_step")
    return next((each for each in found if each.step == step), found[-1] if found else None)


def _trained(history: History) -> list[Evaluated]:
    return [Evaluated(row["step"], row["eval_loss"]) for row in history.evaluations if row["step"]]


def concerns(history: History) -> tuple[str, ...]:
    """Warnings from the held-out losses."""
    best, written = best_evaluated(history), written_evaluated(history)
    if best is None or written is None:
        return ()
    base = next((row["eval_loss"] for row in history.evaluations if not row["step"]), math.inf)
    was_better = best.loss < base and written.loss > _MARGIN * best.loss
    lowest = f"lowest after step {best.step} ({best.loss:.4f})"
    more = f"; --resume --write-best writes the model of step {best.step}" if was_better else ""
    if written.loss > base:
        return (f"the held-out loss rose from {base:.4f} to {written.loss:.4f}: the base model was better{more}",)
    if was_better:
        after = f"that of step {written.step} is {written.loss:.4f}"
        return (f"the held-out loss was {lowest}, {after}: try fewer epochs{more}",)
    return ()
