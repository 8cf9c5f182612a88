"""The output of the command line: escaped text, the progress bar of a conversion, the progress of a run."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from aprnb.printable import running_text

if TYPE_CHECKING:
    from aprnb.conversion import ConversionPlan, Converted
    from aprnb.model.answer import Generation
    from aprnb.tuning.training.events import Event, Listener

T = TypeVar("T")
ConvertedT = TypeVar("ConvertedT", bound="Converted")
GenerationT = TypeVar("GenerationT", bound="Generation")
_CLEAR_LINE = "\r\x1b[K"


class OutputLost(Exception):
    """Standard output or standard error cannot be written: `reason`. Not an OSError, which writers of files handle."""

    def __init__(self, stream: TextIO, reason: OSError) -> None:
        self.stream, self.reason = stream, reason
        super().__init__(str(reason))

    def discard(self) -> None:
        """Directs the stream to the null device, or the interpreter reports the error again when it ends."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.stream.fileno())
        os.close(null)


class Terminal(io.TextIOBase):
    """A stream that makes control characters visible, in our output and in that of libraries.

    Characters that the stream's encoding lacks are written as escapes. Raises OutputLost where writing fails.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO = stream._stream if isinstance(stream, Terminal) else stream

    def write(self, text: str) -> int:
        shown = running_text(text)
        encoding = self._stream.encoding or "utf-8"
        self._call(self._stream.write, shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def start_of_line(self) -> None:
        """Moves to the start of the line, so that what follows is written over it."""
        self._call(self._stream.write, "\r")

    def clear_line(self) -> None:
        """Moves to the start of the line and erases it."""
        self._call(self._stream.write, _CLEAR_LINE)

    def flush(self) -> None:
        self._call(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base declares an attribute
        return self._stream.encoding

    def _call(self, method: Callable[..., object], *arguments: str) -> None:
        try:
            method(*arguments)
        except OSError as reason:
            raise OutputLost(self._stream, reason) from reason


class TerminalView:
    """Shows the progress of commands on standard error; of a run each step, if `every_step`.

    Generated text goes to `output` as it is produced, unless that is None, and the result of a conversion without what
    its plan showed; `has_answered` says whether a result did.
    """

    starts_processes = False

    def __init__(self, *, every_step: bool, output: TextIO | None) -> None:
        self.every_step, self.output = every_step, output
        self.has_answered = False

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

    def training(self, work: Callable[[Listener], T], _kind: str = "here", /) -> T:
        return work(Progress(every_step=self.every_step))

    def generation(
        self, work: Callable[[Callable[[str], object], Callable[[str], object]], GenerationT]
    ) -> GenerationT:
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


class Streamed:
    """Text on `output` as it is produced, if that is not None, and before it the phase on a terminal."""

    def __init__(self, output: TextIO | None) -> None:
        self._output, self._terminal = output, Terminal(sys.stderr)
        self._has_phase = self._has_text = False

    def phase(self, text: str) -> None:
        self._clear()
        if self._terminal.isatty():
            print(text, end="", file=self._terminal, flush=True)
            self._has_phase = True

    def text(self, part: str) -> None:
        self._clear()
        if self._output is not None:
            print(part, end="", file=self._output, flush=True)
            self._has_text = True

    def end(self, *, is_whole: bool) -> None:
        """Ends the line of the text, also of an empty one that is whole."""
        self._clear()
        if self._output is not None and (is_whole or self._has_text):
            print(file=self._output, flush=True)

    def _clear(self) -> None:
        if self._has_phase:
            self._terminal.clear_line()
            self._terminal.flush()
            self._has_phase = False


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
        from aprnb.display.text import to_text

        print(f"{to_text(plan.announcement())}\n", file=self._terminal, flush=True)

    def clear(self) -> None:
        if self._shown:
            self._terminal.clear_line()
            self._terminal.flush()


class Progress:
    """A run's listener that prints events: each step on a terminal, about twenty steps in a log."""

    def __init__(self, *, every_step: bool) -> None:
        self._terminal = Terminal(sys.stderr)
        self.every_step = every_step
        self.in_place = self._terminal.isatty() and not every_step
        self.open_line = False

    def __call__(self, event: Event) -> None:
        from aprnb.tuning.training import events

        if isinstance(event, events.StepEvent):
            if self.in_place or self.every_step or event.step % max(1, event.total_steps // 20) == 0 or event.step == 1:
                self._say(_step_text(event), in_place=self.in_place)
        elif isinstance(event, events.EvalEvent):
            self._say(f"step {event.step}: held-out loss {event.eval_loss:.4f}")
        elif isinstance(event, events.Phase):
            if self.in_place or not event.done:
                self._say(str(event), in_place=self.in_place)
        elif isinstance(event, events.Notice):
            self._say(f"{event.kind}: {event.text}")
        elif isinstance(event, events.Saved):
            self._say(f"step {event.step}: state saved in {event.path}")
        elif isinstance(event, events.Finished):
            self._say(f"{event.status} after step {event.step}")
        else:
            self._say(f"{event.plan}\n")

    def _say(self, text: str, *, in_place: bool = False) -> None:
        if self.open_line:
            self._terminal.clear_line()
        print(text, end="" if in_place else "\n", file=self._terminal, flush=True)
        self.open_line = in_place


def _step_text(event: Any) -> str:
    from aprnb.units import duration_text

    left = f", {duration_text(event.remaining_s)} left" if event.remaining_s is not None else ""
    return (
        f"step {event.step}/{event.total_steps}: loss {event.loss:.4f}, gradient norm {event.grad_norm:.3f}, "
        f"{event.tokens_per_s:,.0f} tokens/s{left}"
    )
