"""The events that a run reports to its listener: plain data (no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from aprnb.tuning.planning.plan import Plan

STEP_ROW = ("step", "loss", "learning_rate", "grad_norm", "tokens", "labelled_tokens", "tokens_per_s", "elapsed_s")
EVAL_ROW = ("step", "eval_loss")
"""Keys of the rows of `metrics.jsonl`."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """The first event, before any weight is loaded."""

    plan: Plan


@dataclasses.dataclass(frozen=True)
class StepEvent:
    """One optimizer step. Loss is the mean over the step's labelled tokens; tokens are real ones, without padding."""

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


Event = Planned | StepEvent | EvalEvent | Notice | Saved | Finished
Listener = Callable[[Event], None]


def to_metrics_row(event: StepEvent | EvalEvent) -> dict[str, Any]:
    """The event's row of `metrics.jsonl`."""
    return {name: getattr(event, name) for name in (STEP_ROW if isinstance(event, StepEvent) else EVAL_ROW)}


def mean_tokens_per_s(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens per second over the step rows of `metrics.jsonl`, without the first step, which warms up.

    None where no step was made; with one step alone, that step's own speed.
    """
    steps = [row for row in rows if "tokens_per_s" in row]
    counted = steps[1:] or steps
    seconds = sum(row["tokens"] / row["tokens_per_s"] for row in counted)
    return sum(row["tokens"] for row in counted) / seconds if seconds else None
