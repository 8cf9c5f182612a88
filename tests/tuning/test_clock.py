"""Elapsed and remaining seconds, on a clock that the test sets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

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
    clock = Clock(4, evaluations=(2, 4))
    with clock.evaluation():
        now.s += 5.0
    found = []
    for step in (1, 2, 3):
        clock.start_step()
        now.s += 1.0
        found.append(clock.end_step(step, 1)[1])
    # After step 2 its own evaluation is still to come.
    assert found == [None, 2 * 1.0 + 2 * 5.0, 1 * 1.0 + 1 * 5.0]


def test_a_resumed_run_begins_with_the_seconds_before_it(now: SimpleNamespace) -> None:
    clock = Clock(10, elapsed_s=50.0)
    now.s += 1
    assert clock.elapsed_s == 51.0
