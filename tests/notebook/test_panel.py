"""The panel without a browser: it shows what a saved notebook keeps."""

from __future__ import annotations

import gc
import re
import weakref
from html.parser import HTMLParser
from pathlib import Path

import pytest
from IPython.utils.capture import capture_output

from aprnb.display.bundle import Displayed
from aprnb.display.document import Document, Fields, Messages, Table
from aprnb.notebook.panel import Panel
from aprnb.notebook.screen import KernelName, Screen
from aprnb.notebook.stop import stop_button
from aprnb.tuning.training.events import STOPPING, EvalEvent, Finished, Notice, Phase, Planned, Saved, StepEvent


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
    assert "Fine-tuning finished  ⚠ warning" in result
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
    """A screen with a browser, which shows displays that are updated."""

    is_live = True
    kernel = KernelName("0a1b-2c", "a-session")


def displays(captured) -> dict[str, dict[str, str]]:
    """The last content of each display, by what its id ends with."""
    last = {}
    for output in captured.outputs:
        last[output.transient["display_id"].partition("-")[2].partition("-")[2]] = output.data
    return last


def test_the_live_panel_is_html_that_is_replaced_in_place(shell):
    now_s = [0.0]
    with capture_output() as captured, Panel(LiveScreen(shell), clock=lambda: now_s[0]) as panel:
        panel(Phase("starting"))
        assert "starting" in displays(captured)[""]["text/html"], "before the plan"
        panel(Planned(SmallPlan()))
        now_s[0] = 1.0
        panel(step(1))
        shown = displays(captured)
        assert "1 of 3" in shown[""]["text/html"]
        assert "<svg" in shown[""]["text/html"]
        assert "<details" in shown["plan"]["text/html"]
        assert "w1" in shown["plan"]["text/html"].partition("<details")[0], "warnings are not folded"
        assert not any("widget" in kind for output in captured.outputs for kind in output.data)
    numbers, picture, stop, plan = (displays(captured)[name] for name in ("", "picture", "stop", "plan"))
    assert "<svg" not in numbers["text/html"], "the end is static"
    assert set(picture) == {"image/png", "text/plain"}
    assert stop["text/html"] == plan["text/html"] == ""


def test_what_is_stored_of_a_live_panel_says_that_it_is_a_state_and_has_no_button(shell):
    with capture_output() as captured, Panel(LiveScreen(shell), clock=lambda: 0.0) as panel:
        panel(Planned(SmallPlan(), Path("a run.run")))
        panel(step(1))
        shown = displays(captured)
    numbers, stop = (Stored(shown[name]["text/html"]) for name in ("", "stop"))
    assert re.match(r"State of \d{4}-\d\d-\d\d [\d:]{8} \(training\): %apr_watch 'a run.run' shows what", numbers.text)
    assert "State of" in shown[""]["text/plain"]
    assert "1 of 3" in numbers.text
    assert "time left" not in numbers.text
    assert "progress" not in numbers.tags
    assert "button" not in stop.tags
    assert stop.text.startswith("Not connected to this run: %apr_watch 'a run.run' shows it")


class Stored(HTMLParser):
    """The elements and the text of a page that runs no script, or whose script found no kernel of the run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.hidden, self.tags, self.text = 0, list[str](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.hidden or ("style", "display: none") in attrs or tag == "script":
            self.hidden += tag != "br"
        else:
            self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - 1)

    def handle_data(self, data: str) -> None:
        self.text += "" if self.hidden else data


def test_after_a_stop_no_results_are_announced(shell):
    with capture_output(), Panel(Screen(shell)) as panel:
        for event in (Planned(SmallPlan()), step(1), Notice("info", STOPPING), Finished("interrupted", 1)):
            panel(event)
        assert panel.progress.doing == "stopped after step 1"


def test_the_end_of_training_shows_the_last_step_and_what_comes_next(shell):
    with capture_output() as captured, Panel(LiveScreen(shell), clock=lambda: 0.0) as panel:
        panel(Planned(SmallPlan()))
        for event in [*EVENTS, step(3), Finished("finished", 3)]:
            panel(event)
        html = displays(captured)[""]["text/html"]
        assert "3 of 3" in html
        assert "writing the results" in html


def test_what_answers_pages_after_the_end_keeps_no_run(shell):
    run = SmallPlan()
    kept = weakref.ref(run)
    with capture_output(), Panel(LiveScreen(shell)) as panel:
        panel(Planned(SmallPlan()))
        panel.finish(run)
    del panel, run
    gc.collect()
    assert kept() is None, "its model may be in memory"


def test_a_notice_is_shown_at_once(shell):
    with capture_output() as captured, Panel(LiveScreen(shell), clock=lambda: 0.0) as panel:
        panel(Planned(SmallPlan()))
        panel(step(1))
        panel(Notice("info", "writing x.apr"))
        assert "writing x.apr" in displays(captured)[""]["text/html"]


def test_a_pressed_button_is_disabled_and_says_what_it_waits_for(shell):
    with capture_output() as captured, Panel(LiveScreen(shell)) as panel:
        panel(Planned(SmallPlan()))
        panel(Notice("info", STOPPING))
        panel(step(1))
        stop = displays(captured)["stop"]["text/html"]
        assert " disabled>" in stop
        assert "stopping after this micro-batch" in stop
        assert panel.progress.doing == STOPPING, "and a step does not hide it"


def test_steps_that_are_done_again_replace_the_earlier_ones(shell):
    with capture_output(), Panel(Screen(shell)) as panel:
        panel(Planned(SmallPlan()))
        for event in (EvalEvent(0, 2.5), step(1), step(2), EvalEvent(2, 2.0), step(2)):
            panel(event)
        assert [row["step"] for row in panel.progress.steps] == [1, 2]
        assert [row["step"] for row in panel.progress.evals] == [0]


def test_a_run_that_was_resumed_has_time_left_again(shell):
    with capture_output(), Panel(Screen(shell)) as panel:
        for event in (Planned(SmallPlan()), step(1), Finished("interrupted", 1)):
            panel(event)
        assert "time left" not in dict(panel.progress.numbers())
        panel(Phase("loading"))
        assert panel.progress.document().title == "Fine-tuning"
        panel(step(2))
        assert dict(panel.progress.numbers())["time left"] == "1.0 s"


def test_an_error_before_the_plan_leaves_no_live_display(shell):
    with capture_output() as captured, pytest.raises(ValueError, match="broke"), Panel(LiveScreen(shell)) as panel:
        panel(Phase("starting"))
        raise ValueError("broke")
    left = {name: re.sub("<[^>]*>", "", shown["text/html"]) for name, shown in displays(captured).items()}
    assert left == {"": "", "picture": "", "stop": "", "plan": ""}


def test_without_a_server_the_stop_button_is_a_sentence():
    assert "<button" not in stop_button(None, "p")
    assert "interrupt the kernel" in stop_button(None, "p")
    assert "%apr_watch x.run" in stop_button(None, "p", Path("x.run"))


def test_a_path_in_the_script_ends_no_script_and_no_attribute():
    button = stop_button(KernelName("0a1b", "s"), "p", Path("</script><img src=x onerror='alert(1)'>\".run"))
    assert button.count("</script>") == 1
    assert button.endswith("</script>")
    assert "<img src=x" not in button.partition("<script>")[0]
