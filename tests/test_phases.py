"""Phases: told at the start and twice a second, from any thread; what each surface shows of them."""

from __future__ import annotations

import io
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb import phases
from aprnb.phases import Counted, Phase
from aprnb.terminal import LiveLine, Terminal
from aprnb.terminal_views import PhaseLine
from aprnb.tuning.training import loop
from aprnb.tuning.training.events import Event, Planned, StepEvent
from aprnb_tests.tiny import schedule_of, tiny_examples, tiny_run


def test_a_count_is_told_at_the_start_and_then_twice_a_second() -> None:
    told: list[Phase] = []
    seconds = iter(range(100))
    count = Counted(told.append, "loading", 9, clock=lambda: next(seconds) / 5)  # a look each 0.2 s
    for _ in range(9):
        count()
    assert [phase.done for phase in told] == [0, 3, 6, 9]
    assert str(told[1]) == "loading 3/9"


def test_units_of_several_threads_are_counted_once_each() -> None:
    told: list[Phase] = []
    seconds = iter(range(100_000))
    count = Counted(told.append, "loading", 400, clock=lambda: float(next(seconds)))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(400):
            pool.submit(count)
    assert [phase.done for phase in told] == list(range(401))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_has_one_line_for_each_phase_and_a_terminal_one_line_in_all(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    line = PhaseLine()
    for phase in (Phase("importing torch"), Phase("loading", 0, 35), Phase("loading", 20, 35)):
        line(phase)
    line.clear()
    erased = "\r\x1b[K"
    in_place = f"importing torch{erased}loading 0/35{erased}loading 20/35{erased}"
    assert stream.getvalue() == (in_place if is_terminal else "importing torch\nloading 0/35\n")


def test_python_hears_the_phases_of_load_generate_and_inspect(pocket_qwen3: Path) -> None:
    told: list[Phase] = []
    model, tokenizer = aprnb.load(pocket_qwen3, device="cpu", on_phase=told.append)
    aprnb.generate(model, tokenizer, "hi", max_new_tokens=1, on_phase=told.append)
    aprnb.inspect(pocket_qwen3, stats=True, verify=True, on_phase=told.append)
    names = list(dict.fromkeys(phase.name for phase in told))
    assert names == ["loading", "reading the prompt, 9 tokens", "reading the whole file", "decoding"]
    assert told[0] == Phase("loading", 0, 35)


def test_a_run_tells_its_phases_from_the_first_to_the_last(
    pocket_qwen3: Path, repository: Path, tmp_path: Path
) -> None:
    told: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, Phase | Planned | StepEvent):
            told.append(event.name if isinstance(event, Phase) else type(event).__name__)

    cow = repository / "notebooks/ask-the-cow.jsonl"
    options: dict[str, Any] = {"data": cow, "method": "qlora", "max_steps": 1, "output": tmp_path / "out.apr"}
    aprnb.finetune(pocket_qwen3, device="cpu", listener=listener, **options)
    assert list(dict.fromkeys(told)) == [
        "reading the checkpoint", "encoding 86 rows", "importing the training code",
        "measuring this machine", "Planned",
        "quantising", "attaching the adapter", "checking the base", "step 1", "StepEvent", "evaluating",
        "saving the state", "writing the results", "writing the adapter", "reading the adapter", "writing the model",
        "checking the model: loading the base", "checking the model: computing its logits", "checking the model",
        "checking the model: loading it", "writing the manifest",
    ]  # fmt: skip


def test_a_long_step_and_a_long_evaluation_tell_their_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases.Pace, "is_due", lambda _: True)
    one_by_one = schedule_of(tiny_examples(), ((0,), (1,), (2,)))
    told = [str(event) for event in tiny_run(one_by_one, micro_batch_tokens=8).events() if isinstance(event, Phase)]
    assert [text for text in told if text.startswith("step")] == ["step 1", "step 1 0/3", "step 1 1/3", "step 1 2/3"]
    assert "evaluating 1/6" in told


def ticking(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> tuple[LiveLine, io.StringIO, list[float]]:
    """A line without its thread, what it wrote, and its clock, which stands until the test sets it."""
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(LiveLine, "_run", lambda *_: None)
    return LiveLine(Terminal(stream), clock=lambda: now[0]), stream, now


def test_a_terminal_shows_the_seconds_of_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    line, stream, now = ticking(monkeypatch, is_terminal=True)
    line.show("step 3", behind=" · step 2/9: loss 1")
    for now[0] in (0.5, 1.0, 1.5, 2.0):
        line.tick()
    line.keep("state saved", "step 4")
    now[0] = 5.0
    line.tick()
    line.clear()
    now[0] = 9.0
    line.tick()
    shown = stream.getvalue().split("\r\x1b[K")
    loss = " · step 2/9: loss 1"
    assert shown == [f"step 3{loss}", f"step 3 … 1 s{loss}", f"step 3 … 2 s{loss}", "state saved\nstep 4 … 3 s", ""]


def test_a_log_gets_a_line_after_10_20_and_40_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    line, stream, now = ticking(monkeypatch, is_terminal=False)
    line.show("loading", behind=" · step 2/9")
    line.show("step 3", logged=False)
    for now[0] in (float(second) for second in range(1, 42)):
        line.tick()
    assert stream.getvalue().splitlines() == ["loading", "step 3 … 10 s", "step 3 … 20 s", "step 3 … 40 s"]


def test_a_log_hears_of_a_count_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    line, stream, now = ticking(monkeypatch, is_terminal=False)
    line.show("loading 0/9")
    for now[0] in (float(second) for second in range(1, 12)):
        line.show(f"loading {now[0] / 2:.0f}/9", logged=False, goes_on=True)
        line.tick()
    assert stream.getvalue().splitlines() == ["loading 0/9", "loading 5/9 … 10 s"]


def test_what_is_silent_for_a_second_is_said_by_a_thread() -> None:
    written = threading.Event()

    class Heard(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if "reading … 1 s" in text:
                written.set()
            return len(text)

    line = LiveLine(Terminal(Heard()))
    line.show("reading")
    assert written.wait(30)
    line.clear()


def test_a_slow_step_says_that_the_next_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LONG_S", 0.0)
    steps = schedule_of(tiny_examples(), ((0,),), ((1,),))
    told = [str(event) for event in tiny_run(steps).events() if isinstance(event, Phase)]
    assert [text for text in told if text.startswith("step")] == ["step 1", "step 2"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="a terminal of POSIX")
def test_a_terminal_that_was_closed_ends_no_run_before_its_state_is_saved() -> None:
    """The kernel sends SIGHUP then, which does."""
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream:  # noqa: PTH123  a descriptor
        terminal = Terminal(stream)
        assert terminal.isatty()
        os.close(ours)
        print("step 1", file=terminal, flush=True)
