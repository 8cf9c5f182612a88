"""What a run's events add up to: steps, evaluations, warnings, the last phase, and how it ended (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    return {
        "status": record.get("status"),
        "output": record.get("output") is True,
        "adapter": record.get("adapter") is True,
        "peak_memory_bytes": max(0, peak) if isinstance(peak, int) and is_number(peak) else 0,
        "merge_check": check if isinstance(check, Mapping) and all(map(_is_number_or_none, check.values())) else None,
        "error": {name: _short(value) for name, value in error.items()} if isinstance(error, Mapping) else None,
    }


def _is_number_or_none(value: Any) -> bool:
    return value is None or is_number(value)


def _short(value: Any) -> Any:
    return value if _is_number_or_none(value) else message(str(value))[:_MOST_CHARACTERS]


def concerns(evaluations: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Warnings from the held-out losses."""
    losses = [row["eval_loss"] for row in evaluations]
    if len(losses) < 2:
        return ()
    best = evaluations[losses.index(min(losses))]
    if losses[-1] > losses[0]:
        return (f"the held-out loss rose from {losses[0]:.4f} to {losses[-1]:.4f}: the base model was better",)
    if losses[-1] > 1.05 * min(losses):
        lowest = f"step {best['step']} ({min(losses):.4f})"
        return (f"the held-out loss was lowest at {lowest} and rose afterwards: try fewer epochs",)
    return ()
