"""When a run evaluates, and when it saves its state: every so many steps, or every so many minutes (no torch)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from aprnb.errors import UsageProblem

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(steps?|s|sec|min|h)?")
_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
_SAVES, _MINUTES = 10, 10
_EVALUATIONS = 10


@dataclass(frozen=True)
class SaveRule:
    """A state is saved after each `steps` steps, and when `seconds` have passed since the last; None means neither."""

    steps: int | None
    seconds: float | None

    def is_due(self, step: int, seconds: float) -> bool:
        """Whether to save after step `step`, `seconds` after the last save."""
        by_step = self.steps is not None and step % self.steps == 0
        return by_step or (self.seconds is not None and seconds >= self.seconds)


def read_save_rule(written: str | None, total_steps: int) -> SaveRule:
    """The rule of `--save-every`: `50` or `50steps`, `30s`, `10min`, `2h`.

    Not given: ten states in a run, and one at least every ten minutes. Raises UsageProblem for another form.
    """
    if written is None:
        return SaveRule(max(1, math.ceil(total_steps / _SAVES)), 60.0 * _MINUTES)
    found = _FORM.fullmatch(written.strip().lower())
    number = float(found[1]) if found else 0.0
    unit = found[2] if found else None
    if found is None or number <= 0 or (unit not in _SECONDS and not number.is_integer()):
        raise UsageProblem(f"--save-every {written!r}", expected="steps or a time, such as 50, 30s, 10min or 2h")
    return SaveRule(None, number * _SECONDS[unit]) if unit in _SECONDS else SaveRule(int(number), None)


def evaluation_steps(total_steps: int, every: int | None) -> frozenset[int]:
    """The steps after which held-out rows are evaluated: each `every`-th (about ten in all), and the last."""
    stride = every or max(1, math.ceil(total_steps / _EVALUATIONS))
    return frozenset((*range(stride, total_steps + 1, stride), total_steps))
