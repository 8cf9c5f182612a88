"""Elapsed and remaining seconds, on a clock that the test sets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aprnb.tuning.planning.seconds import Forecast
from aprnb.tuning.training import clock as clock_module
from aprnb.tuning.training.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`now.s` is the time."""
    time = SimpleNamespace(s=100.0)
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(perf_counter=lambda: time.s))
    return time


def test_the_first_step_stays_out_of_the_forecast(now: SimpleNamespace) -> None:
    clock = Clock(10)
    found = []
    for step, seconds in enumerate((30.0, 2.0, 4.0), 1):
        clock.start_step()
        now.s += seconds
        found.append(clock.end_step(step, 120))
    # After the first step there is nothing to go by; then 8 steps of 2 s, and 7 of 3 s.
    assert found == [(4.0, None), (60.0, 16.0), (30.0, 21.0)]
    assert clock.elapsed_s == 36.0


def test_the_evaluations_to_come_are_in_the_forecast(now: SimpleNamespace) -> None:
    clock = Clock(4, forecast=Forecast(evaluated=frozenset({2, 4})))
    with clock.evaluations.timed():
        now.s += 5.0
    found = []
    for step in (1, 2, 3):
        clock.start_step()
        now.s += 1.0
        found.append(clock.end_step(step, 1)[1])
    # After step 2 its own evaluation is still to come.
    assert found == [None, 2 * 1.0 + 2 * 5.0, 1 * 1.0 + 1 * 5.0]


def test_the_plan_says_what_was_not_timed_yet(now: SimpleNamespace) -> None:
    expected = Forecast(
        step=3.0, evaluation=7.0, save=0.5, results=20.0, evaluated=frozenset({4}), saved=frozenset({2, 4})
    )
    clock = Clock(4, forecast=expected)
    found = []
    for step in (1, 2, 3):
        clock.start_step()
        now.s += 1.0
        found.append(clock.end_step(step, 1)[1])
        if step == 2:
            with clock.saves.timed():
                now.s += 2.0
    # Steps are timed from the second on, saves from the first on; evaluations and results never were.
    assert found == [3 * 3.0 + 7.0 + 2 * 0.5 + 20.0, 2 * 1.0 + 7.0 + 2 * 0.5 + 20.0, 1 * 1.0 + 7.0 + 1 * 2.0 + 20.0]


def test_a_resumed_run_begins_with_the_seconds_before_it(now: SimpleNamespace) -> None:
    clock = Clock(10, elapsed_s=50.0)
    now.s += 1
    assert clock.elapsed_s == 51.0
