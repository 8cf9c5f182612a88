"""How the command line shows the progress of long work: phases, a conversion's bar, an answer, a run."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from aprnb.phases import Phase
from aprnb.terminal import LiveLine, Terminal

if TYPE_CHECKING:
    from aprnb.conversion import ConversionPlan, Converted
    from aprnb.model.answer import Generation
    from aprnb.phases import OnPhase
    from aprnb.tuning.results.run import Run
    from aprnb.tuning.training.events import Event, Listener, Planned, StepEvent
    from aprnb.views import Answer

T = TypeVar("T")
RunT = TypeVar("RunT", bound="Run")
ConvertedT = TypeVar("ConvertedT", bound="Converted")
GenerationT = TypeVar("GenerationT", bound="Generation")
_LOG_EVERY_S = 10.0


class TerminalView:
    """Shows the progress of commands on standard error; of a run each step, if `every_step`.

    Generated text goes to `output` as it is produced, unless that is None, and the result of a conversion without what
    its plan showed; `has_answered` says whether a result did.
    """

    starts_processes = False

    def __init__(self, *, every_step: bool, output: TextIO | None) -> None:
        self.every_step, self.output = every_step, output
        self.has_answered = False
        self._run: Run | None = None

    def conversion(self, work: Callable[[Bar], ConvertedT]) -> ConvertedT:
        from aprnb.display.text import to_text

        bar = Bar()
        try:
            converted = work(bar)
        finally:
            bar.clear()
        self.has_answered = self.output is not None
        if self.output is not None:
            print(to_text(converted.after_plan()), file=self.output, flush=True)
        return converted

    def training(self, work: Callable[[Listener], RunT], _kind: str = "here", /) -> RunT:
        progress = Progress(every_step=self.every_step)
        try:
            self._run = run = work(progress)
        finally:
            progress.line.clear()
        return run

    def text(self, answer: Answer) -> str:
        """The answer; that of a run without the plan, which was shown."""
        from aprnb.display.text import to_text

        return to_text(self._run.after_plan()) if self._run is answer and self._run is not None else str(answer)

    def phases(self, work: Callable[[PhaseLine], T]) -> T:
        line = PhaseLine()
        try:
            return work(line)
        finally:
            line.clear()

    def generation(self, work: Callable[[Callable[[str], object], OnPhase], GenerationT]) -> GenerationT:
        streamed = Streamed(self.output)
        try:
            answer = work(streamed.text, streamed.phase)
        except BaseException:
            streamed.end(is_whole=False)
            raise
        streamed.end(is_whole=True)
        self.has_answered = self.output is not None
        for line in filter(None, (*answer.notices, f"{answer.outcome}; {answer.speed}".removesuffix("; "))):
            print(line, file=Terminal(sys.stderr), flush=True)
        return answer


class PhaseLine:
    """Shows phases on standard error: on a terminal in one line, which is written over, else one for each."""

    def __init__(self) -> None:
        self._line, self._begun = LiveLine(Terminal(sys.stderr)), ""

    def __call__(self, phase: Phase) -> None:
        goes_on = phase.name == self._begun
        self._line.show(str(phase), logged=not goes_on, goes_on=goes_on)
        self._begun = phase.name

    def plan(self, plan: ConversionPlan) -> None:
        """Prints what will be written."""
        self._line.keep(_plan_text(plan))

    def clear(self) -> None:
        """Erases the line on a terminal."""
        self._line.clear()


class Streamed:
    """Text on `output` as it is produced, if that is not None, and before it the phases."""

    def __init__(self, output: TextIO | None) -> None:
        self._output, self.phase = output, PhaseLine()
        self._has_text = False

    def text(self, part: str) -> None:
        self.phase.clear()
        if self._output is not None:
            print(part, end="", file=self._output, flush=True)
            self._has_text = True

    def end(self, *, is_whole: bool) -> None:
        """Ends the line of the text, also of an empty one that is whole."""
        self.phase.clear()
        if self._output is not None and (is_whole or self._has_text):
            print(file=self._output, flush=True)


class Bar:
    """The plan of a conversion, then percent of its bytes; those are silent when standard error is not a terminal."""

    def __init__(self) -> None:
        self._terminal, self._shown = Terminal(sys.stderr), ""

    def __call__(self, done: int, total: int) -> None:
        text = f"{100 * done // max(1, total)} %"
        if self._terminal.isatty() and text != self._shown:
            self._terminal.start_of_line()
            print(text, end="", file=self._terminal, flush=True)
            self._shown = text

    def plan(self, plan: ConversionPlan) -> None:
        """Prints what will be written."""
        print(_plan_text(plan), file=self._terminal, flush=True)

    def clear(self) -> None:
        if self._shown:
            self._terminal.clear_line()
            self._terminal.flush()


def _plan_text(plan: ConversionPlan) -> str:
    from aprnb.display.text import to_text

    return f"{to_text(plan.announcement())}\n"


class Progress:
    """A run's listener that prints events: each step on a terminal, about twenty steps in a log, or one each 10 s.

    What is done now is `line`; on a terminal the numbers of the last step stand behind it.
    """

    def __init__(self, *, every_step: bool) -> None:
        self.line, self.every_step = LiveLine(Terminal(sys.stderr)), every_step
        self._phase, self._step, self._next, self._printed_s = "", "", "", 0.0

    def __call__(self, event: Event) -> None:
        from aprnb.tuning.training import events

        if isinstance(event, events.StepEvent):
            self._show_step(event)
        elif isinstance(event, Phase):
            is_next_step, goes_on = event.name == self._next, event.name == self._phase
            behind = f" · {self._step}" if self._step and not self.every_step else ""
            self.line.show(str(event), behind=behind, logged=not (is_next_step or goes_on), goes_on=goes_on)
        elif isinstance(event, events.EvalEvent):
            self.line.keep(f"step {event.step}: held-out loss {event.eval_loss:.4f}", self._next)
        elif isinstance(event, events.Notice):
            self.line.keep(f"{event.kind}: {event.text}")
        elif isinstance(event, events.Saved):
            self.line.keep(f"step {event.step}: state saved in {event.path}", self._next)
        elif isinstance(event, events.Finished):
            self._step = self._next = ""
            self.line.keep(f"{event.status} after step {event.step}", "")
        else:
            is_short = self.line.is_terminal and not self.every_step
            self.line.keep(f"{_short_plan(event) if is_short else event.plan}\n", "")
        self._phase = event.name if isinstance(event, Phase) else ""

    def _show_step(self, event: StepEvent) -> None:
        self._step, now_s = _step_text(event), time.monotonic()
        self._next = f"step {event.step + 1}" if event.step < event.total_steps else ""
        is_chosen = event.step % max(1, event.total_steps // 20) == 0 or event.step == 1
        if self.line.is_terminal and not self.every_step:
            self.line.show(self._step)
        elif self.every_step or is_chosen or now_s > self._printed_s + _LOG_EVERY_S:
            self._printed_s = now_s
            self.line.keep(self._step, self._next)
        else:
            self.line.show(self._next, logged=False)


def _short_plan(planned: Planned) -> str:
    """What fits on a screen: outcome, facts and warnings, and where the rest is."""
    from aprnb.display.document import Document, Messages, Paragraph
    from aprnb.display.text import to_text

    plan = planned.plan.document()
    warnings = [block for block in plan.blocks if isinstance(block, Messages) and block.kind == "warning"]
    rest = f"aprnb inspect {shlex.quote(str(planned.run))}" if planned.run else "aprnb plan"
    more = Paragraph(f"memory by term, architecture, recipe, assumptions: {rest}, or --verbose")
    return to_text(Document(plan.title, plan.status, (*warnings, *plan.blocks[:1], more)))


def _step_text(event: Any) -> str:
    from aprnb.units import duration_text

    left = f", {duration_text(event.remaining_s)} left" if event.remaining_s is not None else ""
    return (
        f"step {event.step}/{event.total_steps}: loss {event.loss:.4f}, gradient norm {event.grad_norm:.3f}, "
        f"{event.tokens_per_s:,.0f} tokens/s{left}"
    )
