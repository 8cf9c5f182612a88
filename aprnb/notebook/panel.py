"""The live panel of a run: a listener that shows plan and events, and leaves static HTML and a picture.

During the run one display contains ipywidgets. When the run ends, also by an error, the static result replaces them, so
that a saved notebook has no widget state. The widgets get the static result too: a page that was reloaded during the
run shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from types import TracebackType

from aprnb.display.bundle import Displayed
from aprnb.display.curve import figure_png, training_curve
from aprnb.display.document import Details, Document, Messages
from aprnb.display.html import to_html
from aprnb.errors import MissingExtra
from aprnb.notebook.pacing import Pace
from aprnb.notebook.progress import Progress
from aprnb.notebook.screen import Screen, picture_bundle, pictures, publish, static_bundle, without_pictures
from aprnb.notebook.stop import stop_button
from aprnb.tuning.training.events import Event, Finished, Planned, StepEvent


class Panel:
    """Call it with each event; `finish` takes the run; leaving the block makes it static."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        for package in ("matplotlib", *(("ipywidgets",) if screen.is_live else ())):
            if find_spec(package) is None:
                raise MissingExtra("notebook", package)
        self.screen, self.clock = screen, clock
        self.progress = Progress()
        self.pace = Pace(clock())
        self._view: _LiveView | None = None
        self._run: Displayed | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._begin(event.plan)
            return
        self.progress.take(event)
        if self._view:
            self._refresh(self._view, event)

    def finish(self, run: Displayed) -> None:
        """Takes the run that was returned, whose document remains displayed."""
        self._run = run

    def document(self) -> Document:
        """The current state: the run's document once it has been returned, before that the events'."""
        if self._run is not None:
            return self._run.document()
        return self.progress.document(self._png() if self.progress.steps else None)

    def __enter__(self) -> Panel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress.plan is None:
            return
        if error is not None:
            self.progress.status = "failed"
        document = self.document()
        if self._view:
            self._view.close(document)
        else:
            self.screen.show(document)
        if self._run is not None:
            self.screen.was_shown(self._run)

    def _begin(self, plan: Displayed) -> None:
        self.progress.plan = plan
        self.screen.show(_with_details_folded(plan.document()))
        if not self.screen.is_live:
            return
        self._view = _LiveView(self.progress.live_html(), stop_button(self.screen.kernel_id))
        # The first drawing imports matplotlib and reads fonts: it is done here, before the weights are loaded.
        self._png()
        self.pace = Pace(self.clock())
        self.pace.expect(self._timed_png()[1])

    def _refresh(self, view: _LiveView, event: Event) -> None:
        # Only steps come often. After any other event, such as the last one, the next may take minutes.
        if not isinstance(event, StepEvent) or self.pace.numbers_are_due(self.clock()):
            view.numbers(self.progress.live_html())
        if self.progress.steps and (isinstance(event, Finished) or self.pace.drawing_is_due(self.clock())):
            png, drawing_s = self._timed_png()
            self.pace.drew(drawing_s)
            view.curve(png)

    def _timed_png(self) -> tuple[bytes, float]:
        start_s = self.clock()
        png = self._png()
        return png, self.clock() - start_s

    def _png(self) -> bytes:
        return figure_png(training_curve(self.progress.steps, self.progress.evals))


def _with_details_folded(plan: Document) -> Document:
    """The plan's facts and warnings; the rest is collapsed, so that the live numbers stay on the page."""
    kept = [block for block in plan.blocks[1:] if isinstance(block, Messages) and block.kind != "assumption"]
    folded = tuple(block for block in plan.blocks[1:] if block not in kept)
    return Document(plan.title, plan.status, (*plan.blocks[:1], *kept, Details("The whole plan", folded)))


class _LiveView:
    """ipywidgets under one display id."""

    def __init__(self, numbers_html: str, button_html: str) -> None:
        import ipywidgets

        self._numbers = ipywidgets.HTML(numbers_html)
        self._button = ipywidgets.HTML(button_html)
        self._curve = ipywidgets.Image(format="png", layout={"display": "none", "max_width": "720px"})
        self._box = ipywidgets.VBox([self._numbers, self._button, self._curve], layout={"max_width": "960px"})
        shown = self._box._repr_mimebundle_()
        self._handle = publish({**shown, "text/plain": "fine-tuning …"}, display_id=True)

    def numbers(self, html: str) -> None:
        self._numbers.value = html

    def curve(self, png: bytes) -> None:
        self._curve.value = png
        self._curve.layout.display = "block"

    def close(self, document: Document) -> None:
        """Replaces the widgets by static outputs; in the kernel the widgets remain, with the same content."""
        self._numbers.value = to_html(document)
        self._box.children = (self._numbers,)
        self._button.close()
        self._curve.close()
        self._handle.update(static_bundle(without_pictures(document)), raw=True)
        for picture in pictures(document):
            publish(picture_bundle(picture))
