"""Events as records of JSON, and back."""

import json

import pytest

from aprnb.tuning.training.events import (
    EvalEvent,
    Finished,
    Notice,
    Phase,
    Saved,
    StepEvent,
    from_record,
    to_record,
)

EVENTS = [
    Phase("loading", 12, 291),
    Phase("writing"),
    StepEvent(1, 18, 2.5, 1e-4, 0.75, 512, 128, 900.0, 0.5, 1 << 30, None),
    EvalEvent(3, 1.25),
    Notice("warning", "the base is new"),
    Saved(3, "x.run/states/step-000003"),
    Finished("interrupted", 3),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_a_record_is_the_event_again(event):
    record = json.loads(json.dumps(to_record(event, 1_800_000_000.5)))
    assert record["time"] == 1_800_000_000.5
    assert from_record(record) == event


def test_records_of_steps_and_evaluations_have_the_keys_of_metrics():
    step, evaluation = to_record(EVENTS[2], 0.0), to_record(EVENTS[3], 0.0)
    assert step["event"] == "step"
    assert step["loss"] == 2.5
    assert (evaluation["event"], evaluation["step"], evaluation["eval_loss"]) == ("eval", 3, 1.25)


def test_records_of_other_versions_are_left_out():
    assert from_record({"event": "comet", "time": 1.0}) is None
    assert from_record({"event": "eval", "time": 1.0, "step": 3}) is None
    assert from_record({**to_record(EVENTS[3], 0.0), "perplexity": 3.5}) == EVENTS[3]
