"""What a command is doing: its phase, or a conversion's plan with a progress bar; removed at the end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aprnb.display.html import escaped
from aprnb.notebook.screen import Screen
from aprnb.phases import Phase
from aprnb.units import bytes_text

if TYPE_CHECKING:
    from aprnb.conversion import ConversionPlan

_SECONDS_BETWEEN = 0.2


class Transient:
    """A display that is replaced in place while work goes on, and empty at the end."""

    def __init__(self, screen: Screen) -> None:
        self._live = screen.is_live
        self._handle: object | None = None

    def _show(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)  # type: ignore[attr-defined]  # a DisplayHandle, which has no stub

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._show({"text/plain": "", "text/html": ""})


class PhaseLine(Transient):
    """Call it with each phase; shows nothing without a front end."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._plan: tuple[str, str] = ("", "")

    def plan(self, plan: ConversionPlan) -> None:
        """Shows what will be written, above the phase."""
        self._plan = (f"{plan}\n", plan.to_html())

    def __call__(self, phase: Phase) -> None:
        if self._live:
            text, html = self._plan
            shown = f'{html}<div role="status">{escaped(str(phase))}</div>'
            self._show({"text/plain": f"{text}{phase}", "text/html": shown})


class Bar(Transient):
    """Call it with the bytes done and the bytes in total; shows nothing without a front end, or for short work."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._next = time.monotonic() + _SECONDS_BETWEEN
        self._plan: tuple[str, str] = ("", "")

    def plan(self, plan: ConversionPlan) -> None:
        """Shows what will be written, above the bar."""
        self._plan = (f"{plan}\n", plan.to_html())
        if self._live:
            self._show({"text/plain": self._plan[0], "text/html": self._plan[1]})

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._live or now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN
        text = f"{bytes_text(done)} of {bytes_text(total)}"
        bar = f'<progress class="aprnb-progress" value="{done}" max="{max(1, total)}" style="width: 60%"></progress>'
        before, html = self._plan
        self._show({"text/plain": before + text, "text/html": f"{html}<div>{bar} {text}</div>"})
