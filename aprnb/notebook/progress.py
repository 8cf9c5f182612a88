"""The events of a run so far, as live HTML and as a document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aprnb.display.curve import curve_words
from aprnb.display.curve_svg import curve_svg
from aprnb.display.document import Block, Document, Fields, Messages, Paragraph, Picture, Status
from aprnb.display.html import escaped
from aprnb.tuning.results.history import History
from aprnb.tuning.training.events import (
    STOPPING,
    EvalEvent,
    Event,
    Finished,
    Notice,
    Phase,
    Saved,
    StepEvent,
    to_metrics_row,
)
from aprnb.units import bytes_text, duration_text

if TYPE_CHECKING:
    from aprnb.display.bundle import Displayed

_TITLES = {"running": "Fine-tuning", "finished": "Fine-tuning finished", "interrupted": "Fine-tuning interrupted",
           "failed": "Fine-tuning failed"}  # fmt: skip
_STATUSES: dict[str, Status | None] = {"running": None, "finished": "ok", "interrupted": "warning", "failed": "failed"}
_TILES = "flex: 1 1 240px; display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 8px 12px"
_BESIDE = "display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: flex-start; margin-top: 8px"
# Wide enough to be read at 900 pixels; where there is no room beside the numbers it comes below them.
_CURVE = "flex: 3 1 440px; max-width: 820px"

_HIDDEN = ' style="display: none"'
"""Until the page's script knows that the page is connected to the run."""
_STORED = "border-left: 3px solid #b7791f; padding-left: 8px"
_NAME, _NUMBER = "opacity: 0.75; font-size: 90%", "font-size: 115%; font-variant-numeric: tabular-nums"


@dataclass
class Progress:
    """The collected events: plan, rows of steps and evaluations, warnings, the last saved state."""

    plan: Displayed | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    doing: str = "preparing"
    status: str = "running"
    last: StepEvent | None = None
    saved: Saved | None = None

    def take(self, event: Event) -> None:
        """Adds one event."""
        if isinstance(event, StepEvent) or (isinstance(event, Phase) and self.status == "interrupted"):
            self.status = "running"  # again, where another process resumed the run
        if isinstance(event, StepEvent):
            self._drop_from(event.step)
            self.steps.append(to_metrics_row(event))
            self.last, self.doing = event, self.doing if self.doing == STOPPING else "training"
        elif isinstance(event, EvalEvent):
            self.evals.append(to_metrics_row(event))
        elif isinstance(event, Phase):
            self.doing = str(event)
        elif isinstance(event, Notice):
            self._take_notice(event)
        elif isinstance(event, Saved):
            self.saved = event
        elif isinstance(event, Finished):
            self.status = event.status
            self.doing = "writing the results" if event.status == "finished" else f"stopped after step {event.step}"

    def before(self, history: History) -> None:
        """Takes the steps and evaluations that were done before the run was resumed."""
        self.steps, self.evals = [*history.steps], [*history.evaluations]

    def document(self, png: bytes | None = None) -> Document:
        """The current state, static."""
        blocks: list[Block] = [Fields(tuple((name, value, "") for name, value in self.numbers()))]
        if self.saved:
            blocks.append(Paragraph(f"state of step {self.saved.step} saved in {self.saved.path}"))
        if self.warnings:
            blocks.append(Messages("warning", tuple(self.warnings)))
        if png:
            blocks.append(Picture(png, curve_words(self.steps, self.evals)))
        status = _STATUSES[self.status]
        return Document(_TITLES[self.status], "warning" if status == "ok" and self.warnings else status, tuple(blocks))

    def numbers(self) -> list[tuple[str, str]]:
        """Name and text of each number, in the order in which they are shown."""
        last = self.last
        if last is None:
            return [("step", "–")]
        left = "–" if last.remaining_s is None else duration_text(last.remaining_s)
        return [
            ("step", f"{last.step:,} of {last.total_steps:,}"),
            ("loss", f"{last.loss:.4f}"),
            ("held-out loss", f"{self.evals[-1]['eval_loss']:.4f}" if self.evals else "–"),
            ("learning rate", f"{last.learning_rate:.2e}"),
            ("gradient norm", f"{last.grad_norm:.3f}"),
            ("tokens/s", f"{last.tokens_per_s:,.0f}"),
            ("memory", bytes_text(last.memory_bytes)),
            ("time so far", duration_text(last.elapsed_s)),
            *([("time left", left)] if self.status == "running" else []),
        ]

    def state_text(self, as_of: str, watch: str) -> str:
        """What is true of the numbers at any later time; `watch` is the command that shows the run."""
        return f"State of {as_of} ({self.doing}): {watch} shows what became of the run."

    def live_html(self, as_of: str = "", watch: str = "") -> str:
        """The numbers as tiles under a progress bar, the curve beside them.

        `as_of` is the day and time. A page that is not connected to the run shows `state_text` in place of the bar.
        """
        done, total = (self.last.step, self.last.total_steps) if self.last else (0, 1)
        tiles = "".join(
            f'<span class="{"aprnb-connected" if name == "time left" else "aprnb-number"}"'
            f'{_HIDDEN if name == "time left" else ""}><span style="{_NAME}">{escaped(name)}</span>'
            f'<br><b style="{_NUMBER}">{escaped(value)}</b></span>'
            for name, value in self.numbers()
        )
        warnings = "".join(f"<div>⚠ {escaped(text)}</div>" for text in self.warnings[-3:])
        bar = f'<progress class="aprnb-progress" value="{done}" max="{total}" style="width: 100%"></progress>'
        doing = f'<div role="status">{escaped(self.doing)} <small>{escaped(as_of.partition(" ")[2])}</small></div>'
        curve = f'<div style="{_CURVE}">{curve_svg(self.steps, self.evals)}</div>' if self.steps else ""
        beside = f'<div style="{_BESIDE}"><div style="{_TILES}">{tiles}</div>{curve}</div>'
        return (
            '<div class="aprnb-live" style="line-height: 1.35; max-width: 1200px">'
            f'<div class="aprnb-connected"{_HIDDEN}>{bar}{doing}</div>'
            f'<div class="aprnb-stored" style="{_STORED}">{escaped(self.state_text(as_of, watch))}</div>'
            f"{beside}{warnings}</div>"
        )

    def _drop_from(self, step: int) -> None:
        """Removes what an earlier process did at `step` and after it, and this one does again."""
        if self.steps and self.steps[-1]["step"] >= step:
            self.steps = [row for row in self.steps if row["step"] < step]
            self.evals = [row for row in self.evals if row["step"] < step]

    def _take_notice(self, notice: Notice) -> None:
        if notice.kind == "warning":
            self.warnings.append(notice.text)
        else:
            self.doing = notice.text
