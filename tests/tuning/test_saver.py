"""When a state is saved: by the rule, at the best evaluation, once per step, and at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aprnb.errors import UsageProblem
from aprnb.tuning.planning.saving import SaveRule, read_save_rule
from aprnb.tuning.training.events import Saved
from aprnb.tuning.training.interrupt import Interrupt
from aprnb.tuning.training.saving import saver as saver_module
from aprnb.tuning.training.saving.saver import Saver
from aprnb.tuning.training.saving.state import RunState
from aprnb_tests.tiny import identity_of, saver, tiny_recipe, tiny_run

NEVER = SaveRule(None, None)


def state(step: int) -> RunState:
    return RunState(step, identity_of(tiny_recipe()), None, 0.0, {}, {}, {})


def saver_of(rule: SaveRule = NEVER) -> Saver:
    return Saver(lambda state: Path(f"step-{state.step}"), rule, Interrupt())


def test_the_best_state_is_that_of_the_lowest_held_out_loss() -> None:
    found, due = saver_of(), []
    for step, loss in ((0, 3.0), (2, 2.0), (4, 2.5), (6, 1.9)):
        found.evaluated(step, loss)
        due.append(found.is_due(step))
    assert found.best == (6, 1.9)
    assert due == [True, True, False, True]


def test_a_step_is_saved_once() -> None:
    found = saver_of()
    events = [event for step in (3, 3, 4) for event in found.save(state(step))]
    assert events == [Saved(3, "step-3"), Saved(4, "step-4")]


def test_the_seconds_of_the_rule_count_from_the_last_save(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(saver_module, "time", SimpleNamespace(monotonic=lambda: now.s))
    found = saver_of(SaveRule(None, 60.0))
    due = []
    for second in (59.0, 60.0):
        now.s = second
        due.append(found.is_due(1))
    list(found.save(state(1)))
    for second in (119.0, 121.0):
        now.s = second
        due.append(found.is_due(2))
    assert due == [False, True, False, True]


def test_the_last_state_is_saved_whatever_the_rule(tmp_path: Path) -> None:
    events = list(tiny_run(held_out=False).events(save=saver(tmp_path), saving=SaveRule(4, None)))
    assert [event.step for event in events if isinstance(event, Saved)] == [4, 6]


@pytest.mark.parametrize(
    ("written", "steps", "seconds"),
    [
        (None, 10, 600.0), ("50", 50, None), ("7 steps", 7, None), ("30s", None, 30.0), ("10min", None, 600.0),
        ("1.5h", None, 5400.0),
    ],
)  # fmt: skip
def test_a_save_rule_is_read_in_steps_and_times(written: str | None, steps: int | None, seconds: float | None) -> None:
    assert read_save_rule(written, total_steps=95) == SaveRule(steps, seconds)


@pytest.mark.parametrize("written", ["0", "1.5", "-3", "ten", "5 days", ""])
def test_another_save_rule_is_rejected(written: str) -> None:
    with pytest.raises(UsageProblem, match="expected steps or a time"):
        read_save_rule(written, 10)


def test_a_rule_of_steps_and_seconds_is_due_at_either() -> None:
    rule: Any = SaveRule(3, 10.0)
    assert [rule.is_due(step, seconds) for step, seconds in ((3, 0.0), (4, 9.9), (4, 10.0))] == [True, False, True]
