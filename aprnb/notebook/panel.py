"""The live panel of a run: a listener that shows plan and events, and leaves static HTML and a picture.

During the run the panel is HTML that is replaced in place. When the run ends, also by an error, the static result
replaces it, so that a saved notebook shows all of it without a kernel. The panel of a run in the background follows the
run's folder in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from aprnb.display.bundle import Displayed
from aprnb.display.curve import figure_png, training_curve
from aprnb.display.document import Details, Document, Messages
from aprnb.errors import AprnbError, MissingExtra
from aprnb.notebook.live_view import LiveView, now_text
from aprnb.notebook.pacing import Pace
from aprnb.notebook.progress import Progress
from aprnb.notebook.screen import Screen
from aprnb.notebook.stop import answer_pages, stop_button, watch_command
from aprnb.tuning.results.history import read_history
from aprnb.tuning.results.places import places_of
from aprnb.tuning.training.events import STOPPING, EvalEvent, Event, Notice, Planned, Saved, StepEvent

if TYPE_CHECKING:
    from aprnb.tuning.results.run import Run

_OFTEN = (StepEvent, EvalEvent, Saved)
"""After any other event the next may take minutes: it is shown at once."""


class Panel:
    """Call it with each event; `finish` takes the run; leaving the block makes it static.

    `is_asked` says that the run is stopped by a request in its folder, not by an interrupt of this kernel.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic, *, is_asked: bool = False) -> None:
        if find_spec("matplotlib") is None:
            raise MissingExtra("notebook", "matplotlib")
        self.screen, self.clock, self.is_asked = screen, clock, is_asked
        self.progress = Progress()
        self.pace = Pace(clock())
        self._view: LiveView | None = None
        self._folder: Path | None = None
        self._run: Displayed | None = None
        self._is_followed = self._is_stopping = False

    def __call__(self, event: Event) -> None:
        if self._view is None and self.screen.is_live:
            self._view = LiveView(*self._numbers())
            answer_pages(self._view.panel, self._view.again, self._ask_to_stop)
            self._show_stop(self._view)
        if isinstance(event, Planned):
            self._begin(event.plan, event.run)
            return
        if isinstance(event, StepEvent) and event.step > 1 and not self.progress.steps and self._folder:
            self.progress.before(read_history(places_of(self._folder).events))
        self.progress.take(event)
        if self._view:
            self._refresh(self._view, event)

    def finish(self, run: Displayed) -> None:
        """Takes the run that was returned, whose document remains displayed."""
        self._run = run

    def follow(self, run: Run) -> threading.Thread | None:
        """Goes on in a thread while `run` does, where a front end may show it; returns the thread."""
        if self._view is None:
            return None
        self._is_followed = True
        self.screen.was_shown(run, run.where.run.name)
        thread = threading.Thread(target=self._follow, args=(run,), name=self._view.panel, daemon=True)
        thread.start()
        return thread

    def document(self) -> Document:
        """The current state: the run's document once it has been returned, before that the events'."""
        if self._run is not None:
            return self._run.document()
        steps, evals = self.progress.steps, self.progress.evals
        return self.progress.document(figure_png(training_curve(steps, evals)) if steps else None)

    def __enter__(self) -> Panel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_followed:
            return
        if error is not None:
            self.progress.status = "failed"
        self._close()
        if self._run is not None and self.progress.plan is not None:
            self.screen.was_shown(self._run)

    def _close(self) -> None:
        if self._view:  # what answers pages from now on keeps no run, whose model may be in memory
            answer_pages(self._view.panel, self._view.again)
        document = self.document() if self.progress.plan is not None else None
        if self._view:
            self._view.close(document)
        elif document:
            self.screen.show(_without_plan(document))

    def _follow(self, run: Run) -> None:
        self.progress = Progress()
        try:
            run.follow(self)
            self.finish(run)
        except AprnbError as error:  # such as a folder that was removed: nobody waits for this thread
            self.progress.status = "failed"
            self.progress.warnings.append(str(error))
        self._close()

    def _begin(self, plan: Displayed, run: Path | None) -> None:
        self.progress.plan, self._folder = plan, run
        if self._view is None:
            self.screen.show(_with_details_folded(plan.document()))
            return
        self._view.plan(_folded(plan.document()))
        self._show_stop(self._view)

    def _show_stop(self, view: LiveView) -> None:
        how = {"is_asked": self.is_asked, "is_pressed": self._is_stopping}
        view.stop(stop_button(self.screen.kernel, view.panel, self._folder, **how))

    def _ask_to_stop(self) -> None:
        from aprnb.tuning.results.run import open_run

        if self._folder and self.is_asked:
            open_run(self._folder).stop()
            self(Notice("info", STOPPING))

    def _numbers(self) -> tuple[str, str]:
        """The numbers as HTML, and as text of a viewer without HTML."""
        as_of, watch = now_text(), watch_command(self._folder)
        return self.progress.live_html(as_of, watch), self.progress.state_text(as_of, watch)

    def _refresh(self, view: LiveView, event: Event) -> None:
        if isinstance(event, Notice) and event.text == STOPPING:
            self._is_stopping = True
            self._show_stop(view)
        start_s = self.clock()
        if not isinstance(event, _OFTEN) or self.pace.is_due(start_s):
            view.numbers(*self._numbers())
            self.pace.refreshed(start_s, self.clock())


def _with_details_folded(plan: Document) -> Document:
    """The plan's facts and warnings; the rest is collapsed."""
    kept = [block for block in plan.blocks[1:] if isinstance(block, Messages) and block.kind != "assumption"]
    folded = tuple(block for block in plan.blocks[1:] if block not in kept)
    return Document(plan.title, plan.status, (*plan.blocks[:1], *kept, Details("The whole plan", folded)))


def _without_plan(run: Document) -> Document:
    """The run's document below its plan, which was shown already."""
    kept = (block for block in run.blocks if not (isinstance(block, Details) and block.title.startswith("Plan")))
    return Document(run.title, run.status, tuple(kept))


def _folded(plan: Document) -> Document:
    """The plan's warnings; the rest is collapsed, so that numbers and curve stay on the page."""
    kept = [block for block in plan.blocks if isinstance(block, Messages) and block.kind != "assumption"]
    folded = tuple(block for block in plan.blocks if block not in kept)
    return Document(plan.title, plan.status, (*kept, Details("The whole plan", folded)))
