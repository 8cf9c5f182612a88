"""The events of a run so far, as live HTML and as a document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aprnb.display.curve import curve_words
from aprnb.display.document import Block, Document, Fields, Messages, Paragraph, Picture, Status
from aprnb.display.html import escaped
from aprnb.tuning.training.events import EvalEvent, Event, Finished, Notice, Phase, Saved, StepEvent, to_metrics_row
from aprnb.units import bytes_text, duration_text

if TYPE_CHECKING:
    from aprnb.display.bundle import Displayed

_TITLES = {"running": "Fine-tuning", "finished": "Fine-tuning finished", "interrupted": "Fine-tuning interrupted",
           "failed": "Fine-tuning failed"}  # fmt: skip
_STATUSES: dict[str, Status | None] = {"running": None, "finished": "ok", "interrupted": "warning", "failed": "failed"}
_TILE = "display: inline-block; min-width: 108px; margin: 0 20px 8px 0; vertical-align: top"

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
        if isinstance(event, StepEvent):
            self.steps.append(to_metrics_row(event))
            self.last, self.doing = event, "training"
        elif isinstance(event, EvalEvent):
            self.evals.append(to_metrics_row(event))
        elif isinstance(event, Phase):
            self.doing = str(event)
        elif isinstance(event, Notice):
            self._take_notice(event)
        elif isinstance(event, Saved):
            self.saved = event
        elif isinstance(event, Finished):
            self.status, self.doing = event.status, "writing the results"

    def document(self, png: bytes | None = None) -> Document:
        """The current state, static."""
        blocks: list[Block] = [Fields(tuple((name, value, "") for name, value in self.numbers()))]
        if self.saved:
            blocks.append(Paragraph(f"state of step {self.saved.step} saved in {self.saved.path}"))
        if self.warnings:
            blocks.append(Messages("warning", tuple(self.warnings)))
        if png:
            blocks.append(Picture(png, curve_words(self.steps, self.evals)))
        return Document(_TITLES[self.status], _STATUSES[self.status], tuple(blocks))

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

    def live_html(self) -> str:
        """The numbers as tiles under a progress bar."""
        done, total = (self.last.step, self.last.total_steps) if self.last else (0, 1)
        tiles = "".join(
            f'<span class="aprnb-number" style="{_TILE}"><span style="{_NAME}">{escaped(name)}</span>'
            f'<br><b style="{_NUMBER}">{escaped(value)}</b></span>'
            for name, value in self.numbers()
        )
        warnings = "".join(f"<div>⚠ {escaped(text)}</div>" for text in self.warnings[-3:])
        bar = f'<progress class="aprnb-progress" value="{done}" max="{total}" style="width: 100%"></progress>'
        numbers = f'<div style="margin-top: 6px">{tiles}</div>'
        doing = f'<div role="status" style="opacity: 0.75">{escaped(self.doing)}</div>'
        return f'<div class="aprnb-live" style="line-height: 1.35">{bar}{numbers}{doing}{warnings}</div>'

    def _take_notice(self, notice: Notice) -> None:
        if notice.kind == "warning":
            self.warnings.append(notice.text)
        else:
            self.doing = notice.text
