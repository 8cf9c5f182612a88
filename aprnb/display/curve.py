"""The training curve: loss, loss on held-out rows, learning rate (matplotlib's `Figure`, never pyplot)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito: distinguishable with colour blindness. Each series also has its own line or marker.
_BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#009e73"


def training_curve(steps: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> Figure:
    """A figure from rows of numbers: `steps` with step, loss, learning_rate; `evals` with step, eval_loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), dpi=100, facecolor="white")
    # Fixed margins: a layout that measures texts takes 1.7 times as long per drawing.
    figure.subplots_adjust(left=0.09, right=0.98, top=0.97, bottom=0.13, hspace=0.22)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_losses(loss_axes, steps, evals)
    _draw_rate(rate_axes, steps)
    for axes in (loss_axes, rate_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def figure_png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def curve_words(steps: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> str:
    """The alternative text of the curve."""
    if not steps:
        return "training curve without steps"
    words = f"training loss from {steps[0]['loss']:.4f} to {steps[-1]['loss']:.4f} over {len(steps)} steps"
    return words + (
        f"; held-out loss from {evals[0]['eval_loss']:.4f} to {evals[-1]['eval_loss']:.4f}" if evals else ""
    )


def _draw_losses(axes: Axes, steps: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.plot(_column(steps, "step"), _column(steps, "loss"), color=_BLUE, linewidth=1.4, label="training loss")
    if evals:
        axes.plot(
            _column(evals, "step"), _column(evals, "eval_loss"),
            color=_ORANGE, linestyle="--", marker="o", markersize=5, label="held-out loss",
        )  # fmt: skip
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper right")


def _draw_rate(axes: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(_column(steps, "step"), _column(steps, "learning_rate"), color=_GREEN, linewidth=1.2)
    axes.set_ylabel("rate")
    axes.set_xlabel("step")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows]
