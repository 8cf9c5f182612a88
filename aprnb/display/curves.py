"""The losses of several runs in one picture (matplotlib's `Figure`, never pyplot)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from aprnb.display.curve import INK, on_any_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
MOST_CURVES = 16
# After the palette of Okabe and Ito, distinguishable with colour blindness: darker or lighter where a colour would have
# less contrast than 3 : 1 on white or on the dark theme's #111.
_COLOURS = ("#0072b2", "#d55e00", "#009066", "#bd68a6", "#3d92c9", "#b57f00", INK)
_STYLES = ("-", "--", ":")


def loss_curves(runs: Sequence[tuple[str, Rows, Rows]]) -> Figure:
    """A figure from name, steps (step, loss) and evaluations (step, eval_loss) of each run.

    Runs that were evaluated show their held-out loss, with their training loss faintly behind it. The first sixteen
    are drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 3.6), dpi=100, facecolor="none")
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.66, top=0.97, bottom=0.13)
    looks = cycle(product(_STYLES, _COLOURS))
    for (name, steps, evaluations), (style, colour) in zip(runs[:MOST_CURVES], looks, strict=False):
        shown: dict[str, Any] = {"color": colour, "linestyle": style, "label": _short(name)}
        losses = [row["step"] for row in steps], [row["loss"] for row in steps]
        if evaluations:
            axes.plot(*losses, color=colour, alpha=0.2, linewidth=1)
            held_out = [row["step"] for row in evaluations], [row["eval_loss"] for row in evaluations]
            axes.plot(*held_out, marker="o", markersize=3.5, linewidth=1.6, **shown)
        else:
            axes.plot(*losses, linewidth=1.4, marker="o" if len(steps) == 1 else None, **shown)
    axes.set_xlabel("step")
    axes.set_ylabel("held-out loss" if any(evaluations for _, _, evaluations in runs) else "loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    on_any_page(axes)
    if runs:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, labelcolor=INK)
    return figure


def _short(name: str) -> str:
    """matplotlib leaves names out that begin with `_`, and reads mathematics between dollar signs."""
    text = name if len(name) <= 34 else f"{name[:16]}…{name[-16:]}"
    return " " + text.replace("$", r"\$")
