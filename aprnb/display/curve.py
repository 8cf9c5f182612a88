"""The training curve as a figure: loss, loss on held-out rows, learning rate (matplotlib's `Figure`, never pyplot)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aprnb.display.curve_points import MARKED_UP_TO, points, smoothed, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, BLUE, ORANGE, GREEN = "#767676", "#1f83d6", "#d5640a", "#2e8b57"
"""Each has a contrast of at least 3.5 : 1 on white and on the dark theme's #111; each series has its own line too."""
_WIDE, _HIGH, _DPI = 7.2, 3.6, 100
_MOST_POINTS = 240


def training_curve(steps: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> Figure:
    """A figure from rows of numbers: `steps` with step, loss, learning_rate; `evals` with step, eval_loss."""
    from matplotlib.figure import Figure

    # No background: the figure is legible on a light and on a dark page.
    figure = Figure(figsize=(_WIDE, _HIGH), dpi=_DPI, facecolor="none")
    figure.subplots_adjust(left=0.1, right=0.98, top=0.91, bottom=0.13, hspace=0.28)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    _draw_losses(loss_axes, steps, evals)
    _draw_rate(rate_axes, steps)
    for axes in (loss_axes, rate_axes):
        on_any_page(axes)
    return figure


def on_any_page(axes: Axes) -> None:
    """Axes without a background, in a grey that is legible on a light and on a dark page."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=INK, alpha=0.2)


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


def short_rate(rate: float) -> str:
    """`0.0002` → `2e-4`."""
    return f"{rate:.2g}" if rate >= 0.01 or not rate else f"{rate:.1e}".replace("e-0", "e-").replace(".0e", "e")


def _draw_losses(axes: Axes, steps: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    raw, held_out = points(steps, "loss"), points(evals, "eval_loss")
    if len(raw) <= MARKED_UP_TO:
        _plot(axes, raw, color=BLUE, linewidth=1.6, marker="o", markersize=4, label="training loss")
    else:
        _plot(axes, thinned(raw, _MOST_POINTS), color=BLUE, linewidth=0.8, alpha=0.45, label="training loss")
        _plot(axes, smoothed(raw, _MOST_POINTS), color=BLUE, linewidth=2.0, label="smoothed")
    if held_out:
        _plot(axes, thinned(held_out), color=ORANGE, linewidth=1.6, linestyle="--", label="held-out loss")
        _plot(axes, thinned(held_out), color=ORANGE, linestyle="", marker="o", markersize=5)
    axes.set_ylabel("loss")
    axes.tick_params(labelbottom=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    last = max((step for step, _ in (*raw, *held_out)), default=0) or 1
    axes.set_xlim(-0.02 * last, 1.02 * last)
    if raw or held_out:
        # Above the axes, where no line goes.
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, labelcolor=INK)


def _draw_rate(axes: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    rate = thinned(points(steps, "learning_rate"))
    _plot(axes, rate, color=GREEN, linewidth=1.4, **({"marker": "o", "markersize": 4} if len(rate) == 1 else {}))
    if rate:
        highest = max(value for _, value in rate)
        axes.set_ylim(0, 1.25 * highest or 1)
        axes.set_yticks([highest], labels=[short_rate(highest)])
        axes.set_title("learning rate", color=INK, fontsize="medium", loc="left", pad=2)
    axes.set_xlabel("step", color=INK)


def _plot(axes: Axes, line: Sequence[tuple[float, float]], **style: Any) -> None:
    axes.plot([step for step, _ in line], [value for _, value in line], **style)
