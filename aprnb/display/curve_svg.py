"""The training curve as inline SVG: a few kilobytes, drawn in milliseconds, in the colours of the page's theme.

The live panel draws it at each refresh, also from a second thread, where matplotlib's global settings would be shared
with the user's own figures. `curve.py` has the same picture for viewers that show no inline SVG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aprnb.display.curve import BLUE, GREEN, ORANGE, curve_words, short_rate
from aprnb.display.curve_points import MARKED_UP_TO, Point, points, smoothed, thinned, ticks
from aprnb.display.html import escaped

_WIDE, _HIGH = 580, 330
_LEFT, _RIGHT = 54, 558
_INK = "var(--jp-content-font-color1, currentColor)"
_RULE = "var(--jp-border-color1, #8886)"
_SIZE, _RATE = 14, "learning rate"
_LINE, _STRIP = (36, 228), (254, 288)
"""Top and bottom of the losses and of the learning rate."""


@dataclass(frozen=True)
class _Scale:
    """Maps the values from `low` to `high` to the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1) * (self.end - self.start)


def curve_svg(steps: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> str:
    """The picture from rows of numbers: `steps` with step, loss, learning_rate; `evals` with step, eval_loss."""
    raw, held_out, rate = points(steps, "loss"), points(evals, "eval_loss"), points(steps, "learning_rate")
    last = max((step for step, _ in (*raw, *held_out)), default=0)
    x = _Scale(0, max(last, 1), _LEFT, _RIGHT)
    values = [value for _, value in (*raw, *held_out)] or [0.0, 1.0]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.5
    y = _Scale(max(0.0, low - room) if low >= 0 else low - room, high + room, _LINE[1], _LINE[0])
    parts = [*_grid(x, y), *_losses(raw, held_out, x, y), *_rate(rate, x), *_legend(len(raw), bool(held_out))]
    style = "width: 100%; height: auto; display: block; font-family: var(--jp-ui-font-family, sans-serif)"
    head = f'<svg class="aprnb-curve" viewBox="0 0 {_WIDE} {_HIGH}" role="img" style="{style}"'
    return f'{head} aria-label="{escaped(curve_words(steps, evals))}">{"".join(parts)}</svg>'


def _losses(raw: list[Point], held_out: list[Point], x: _Scale, y: _Scale) -> list[str]:
    if len(raw) <= MARKED_UP_TO:
        parts = [_path(raw, x, y, BLUE, 2), *_markers(raw, x, y, BLUE)]
    else:
        faint, smooth = thinned(raw), smoothed(raw)
        parts = [_path(faint, x, y, BLUE, 1, 'opacity="0.4"'), _path(smooth, x, y, BLUE, 2.5)]
    shown = thinned(held_out, 100)
    return [*parts, _path(shown, x, y, ORANGE, 2, 'stroke-dasharray="6 4"'), *_markers(shown, x, y, ORANGE)]


def _rate(rate: list[Point], x: _Scale) -> list[str]:
    highest = max((value for _, value in rate), default=0.0)
    y = _Scale(0, highest, _STRIP[1], _STRIP[0] + 2)
    shown = thinned(rate, 200)
    marks = _markers(shown, x, y, GREEN) if len(shown) == 1 else []
    texts = [_text(_LEFT - 8, _STRIP[0] + 11, short_rate(highest), "end"), _text(_LEFT, _STRIP[0] - 5, _RATE, "start")]
    return [_path(shown, x, y, GREEN, 2), *marks, *(texts if rate else [])]


def _grid(x: _Scale, y: _Scale) -> list[str]:
    parts = []
    for value in ticks(y.low, y.high, 6):
        parts += [_rule(_LEFT, y(value), _RIGHT, y(value)), _text(_LEFT - 8, y(value) + 5, f"{value:.6g}", "end")]
    for value in ticks(x.low, x.high, 7):
        if value == int(value):
            parts += [_rule(x(value), _LINE[0], x(value), _STRIP[1]), _text(x(value), 306, f"{value:,.0f}", "middle")]
    return [*parts, _rule(_LEFT, _STRIP[1], _RIGHT, _STRIP[1]), _text((_LEFT + _RIGHT) / 2, 325, "step", "middle")]


def _legend(steps: int, has_held_out: bool) -> list[str]:
    """One row above the plot, where no line goes."""
    is_smooth = steps > MARKED_UP_TO
    entries = [
        ("training loss", BLUE, 'stroke-width="2" opacity="0.5"' if is_smooth else 'stroke-width="2"', steps > 0),
        ("smoothed", BLUE, 'stroke-width="3"', is_smooth),
        ("held-out loss", ORANGE, 'stroke-width="2" stroke-dasharray="6 4"', has_held_out),
    ]
    parts, left = [], float(_LEFT)
    for name, colour, how, _ in filter(lambda entry: entry[3], entries):
        parts += [f'<line x1="{left:.0f}" y1="18" x2="{left + 26:.0f}" y2="18" style="stroke: {colour}" {how}/>']
        parts += [_text(left + 32, 23, name, "start")]
        left += 56 + 8 * len(name)
    return parts


def _path(line: Sequence[Point], x: _Scale, y: _Scale, colour: str, width: float, more: str = "") -> str:
    if len(line) < 2:
        return ""
    places = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in line)
    return (
        f'<polyline points="{places}" style="fill: none; stroke: {colour}" stroke-width="{width:g}" '
        f'stroke-linejoin="round" {more}/>'
    )


def _markers(line: Sequence[Point], x: _Scale, y: _Scale, colour: str) -> list[str]:
    return [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4" style="fill: {colour}"/>' for a, b in line]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="stroke: {_RULE}" opacity="0.6"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    style = f"fill: {_INK}; font-size: {_SIZE}px"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escaped(text)}</text>'
