"""The events that a run reports to its listener: plain data (no torch).

Each but `Planned`, whose plan is a file of its own, has a record: one line of JSON, in `events.jsonl` and in the output
of `--json-events`. A record has the event's name and fields, and `time`, in seconds since 1970.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from aprnb.phases import Phase as Phase

if TYPE_CHECKING:
    from pathlib import Path

    from aprnb.tuning.planning.plan import Plan
    from aprnb.tuning.planning.plan_document import SavedPlan

STEP_ROW = ("step", "loss", "learning_rate", "grad_norm", "tokens", "labelled_tokens", "tokens_per_s", "elapsed_s")
EVAL_ROW = ("step", "eval_loss")
"""Keys of the rows of steps and evaluations."""
STOPPING = "stopping after this micro-batch"
"""What a notice says once a stop was asked for."""
_LARGEST = 1e39
"""Beyond every float32, which the numbers of a run are."""
_MOST_CHARACTERS = 10_000
_SPEED = "tokens_per_s"


@dataclasses.dataclass(frozen=True)
class Planned:
    """The first event, before any weight is loaded; `run` is the run's folder."""

    plan: Plan | SavedPlan
    run: Path | None = None


@dataclasses.dataclass(frozen=True)
class StepEvent:
    """One optimizer step. Loss is the mean over the step's labelled tokens; tokens are real ones, without padding.

    `memory_bytes` is the peak of the run so far: of the GPU, or of the process.
    """

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    labelled_tokens: int
    tokens_per_s: float
    elapsed_s: float
    memory_bytes: int
    remaining_s: float | None


@dataclasses.dataclass(frozen=True)
class EvalEvent:
    """Loss on the held-out rows, mean over their labelled tokens."""

    step: int
    eval_loss: float


@dataclasses.dataclass(frozen=True)
class Notice:
    """Information or a warning for the user."""

    kind: Literal["info", "warning"]
    text: str


@dataclasses.dataclass(frozen=True)
class Saved:
    """A complete state from which the run can be resumed."""

    step: int
    path: str


@dataclasses.dataclass(frozen=True)
class Finished:
    """The last event."""

    status: Literal["finished", "interrupted"]
    step: int


Event = Planned | Phase | StepEvent | EvalEvent | Notice | Saved | Finished
Listener = Callable[[Event], None]
_NAMES: Mapping[str, type] = {
    "phase": Phase, "step": StepEvent, "eval": EvalEvent, "notice": Notice, "saved": Saved, "finished": Finished,
}  # fmt: skip


def to_record(event: Event, time_s: float) -> dict[str, Any]:
    """The event as one JSON object; `time_s` is in seconds since 1970."""
    name = next(name for name, kind in _NAMES.items() if isinstance(event, kind))
    return {"event": name, "time": time_s, **vars(event)}


def from_record(record: Mapping[str, Any]) -> Event | None:
    """The event of a record; None for a name that this version does not know, and where a field is missing or wrong.

    A record may come from anywhere: its fields are numbers and texts where an event has them, counts and seconds are
    not negative, and a speed is more than zero.
    """
    kind = _NAMES.get(str(record.get("event")))
    if kind is None:
        return None
    fields = _fields_of(kind)
    if not all(name in record and _fits(name, record[name], wanted) for name, wanted in fields):
        return None
    event: Event = kind(**{name: record[name] for name, _ in fields})
    return event


@cache
def _fields_of(kind: type) -> tuple[tuple[str, str], ...]:
    """Names and annotations."""
    return tuple((field.name, str(field.type)) for field in dataclasses.fields(kind))


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a run can have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _fits(name: str, value: Any, wanted: str) -> bool:
    """Whether a value of JSON is of the type that an annotation names, and possible in the field `name`."""
    if value is None:
        return wanted.endswith("| None")
    if isinstance(value, str):
        is_choice = wanted.startswith("Literal") and repr(value) in wanted
        return is_choice or (wanted == "str" and len(value) <= _MOST_CHARACTERS)
    if not is_number(value) or not wanted.startswith(("float", "int")):
        return False
    if wanted.startswith("int"):
        return isinstance(value, int) and value >= 0
    return value > 0 if name == _SPEED else value >= 0 or not name.endswith("_s")


def to_metrics_row(event: StepEvent | EvalEvent) -> dict[str, Any]:
    """The event's row of numbers."""
    return {name: getattr(event, name) for name in (STEP_ROW if isinstance(event, StepEvent) else EVAL_ROW)}


def mean_tokens_per_s(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens per second over the step rows, without the first step, which warms up.

    None where no step was made; with one step alone, that step's own speed.
    """
    steps = [row for row in rows if "tokens_per_s" in row]
    counted = steps[1:] or steps
    seconds = sum(row["tokens"] / row["tokens_per_s"] for row in counted)
    return sum(row["tokens"] for row in counted) / seconds if seconds else None


def mean_step_s(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of a step over the step rows, without the first, which warms up; None where no other was made."""
    counted = rows[1:]
    return sum(row["tokens"] / row["tokens_per_s"] for row in counted) / len(counted) if counted else None
