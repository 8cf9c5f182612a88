"""The panel without a browser: it shows what a saved notebook keeps."""

from __future__ import annotations

from itertools import count

import pytest
from IPython.utils.capture import capture_output

from aprnb.display.bundle import Displayed
from aprnb.display.curve import figure_png, training_curve
from aprnb.display.document import Document, Fields, Messages, Table
from aprnb.notebook.panel import Panel
from aprnb.notebook.screen import Screen
from aprnb.notebook.stop import stop_button
from aprnb.tuning.training.events import EvalEvent, Finished, Notice, Planned, Saved, StepEvent


class SmallPlan(Displayed):
    def document(self) -> Document:
        return Document(
            "Plan", "ok", (Fields((("steps", 3, ""),)), Table("Memory", (), ()), Messages("warning", ("w1",)))
        )


def step(number: int) -> StepEvent:
    return StepEvent(number, 3, 2.0 / number, 1e-4, 0.5, 80, 20, 1000.0, float(number), 2**20, 3.0 - number)


EVENTS = [EvalEvent(0, 2.5), step(1), Notice("warning", "little memory left"), Saved(2, "x.run/states"), step(2)]


def kinds(captured) -> list[list[str]]:
    return [sorted(output.data) for output in captured.outputs]


def test_plan_first_then_the_result_and_its_picture(shell):
    with capture_output() as captured, Panel(Screen(shell)) as panel:
        panel(Planned(SmallPlan()))
        for event in [*EVENTS, step(3), EvalEvent(3, 1.5), Finished("finished", 3)]:
            panel(event)
    assert kinds(captured) == [["text/html", "text/plain"], ["text/html", "text/plain"], ["image/png", "text/plain"]]
    plan, result, _ = (output.data["text/plain"] for output in captured.outputs)
    assert plan.startswith("Plan")
    assert "w1" in plan
    assert "Fine-tuning finished  ✓ ok" in result
    for words in ("3 of 3", "0.6667", "1.5000", "1,000", "little memory left", "x.run/states"):
        assert words in result


def test_an_error_keeps_the_progress_and_is_raised(shell):
    with capture_output() as captured, pytest.raises(ValueError, match="broke"), Panel(Screen(shell)) as panel:
        panel(Planned(SmallPlan()))
        panel(step(1))
        raise ValueError("broke")
    assert "Fine-tuning failed  ✗ failed" in captured.outputs[1].data["text/plain"]


def test_an_error_before_the_plan_shows_nothing_but_itself(shell):
    with capture_output() as captured, pytest.raises(ValueError, match="broke"), Panel(Screen(shell)):
        raise ValueError("broke")
    assert captured.outputs == []


def test_the_present_state_can_be_shown_at_any_time(shell):
    with capture_output(), Panel(Screen(shell)) as panel:
        panel(Planned(SmallPlan()))
        panel(step(1))
        assert panel.document().title == "Fine-tuning"
        assert ("step", "1 of 3", "") in panel.document().blocks[0].rows


def test_a_result_that_was_shown_is_not_shown_twice_in_its_cell(shell):
    screen, run = Screen(shell), SmallPlan()
    with capture_output(), Panel(screen) as panel:
        panel(Planned(SmallPlan()))
        panel.finish(run)
    assert set(screen.bundle(run)) == {"text/plain"}
    assert set(screen.bundle(SmallPlan())) == {"text/plain", "text/html"}


def test_warnings_from_a_run_are_escaped_in_the_live_view(shell):
    with capture_output(), Panel(Screen(shell)) as panel:
        panel(Planned(SmallPlan()))
        panel(Notice("warning", "<img src=x onerror=alert(1)>"))
        assert "<img" not in panel.progress.live_html()


class LiveScreen(Screen):
    """A screen with a browser, which shows the widgets of the panel."""

    is_live = True


def test_the_end_of_training_shows_all_steps_and_what_comes_next(shell):
    # Each look at this clock takes a second, so that a drawing is due once in 100 s and numbers at every event.
    ticks = count()
    with capture_output(), Panel(LiveScreen(shell), clock=lambda: float(next(ticks))) as panel:
        panel(Planned(SmallPlan()))
        for event in [*EVENTS, step(3), EvalEvent(3, 1.5)]:
            panel(event)
        steps, evals = panel.progress.steps, panel.progress.evals
        assert len(steps) == 3
        assert panel._view._curve.value != figure_png(training_curve(steps, evals))
        panel(Finished("finished", 3))
        assert panel._view._curve.value == figure_png(training_curve(steps, evals))


def test_a_notice_is_shown_at_once(shell):
    with capture_output(), Panel(LiveScreen(shell), clock=lambda: 0.0) as panel:
        panel(Planned(SmallPlan()))
        panel(step(1))
        panel(Notice("info", "writing x.apr"))
        assert "writing x.apr" in panel._view._numbers.value


def test_without_a_server_the_stop_button_is_a_sentence():
    assert "<button" not in stop_button(None)
    assert "interrupt the kernel" in stop_button(None)
