"""The points of a training curve: thinned, so that a long run takes no more bytes than a short one, and smoothed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import floor, isfinite, log10
from typing import Any

Point = tuple[float, float]

MARKED_UP_TO = 24
"""Curves of at most so many points show each as a marker, and are not smoothed."""
_MOST_POINTS = 400


def points(rows: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """Step and value of each row whose value is finite."""
    return [(row["step"], row[name]) for row in rows if isfinite(row[name])]


def thinned(line: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most `most` points: first, last, and of each equal part the lowest and highest, so that no peak is lost."""
    if len(line) <= most:
        return list(line)
    parts = max(1, (most - 2) // 2)
    kept = {0, len(line) - 1}
    for part in range(parts):
        places = range(part * len(line) // parts, (part + 1) * len(line) // parts)
        kept |= {min(places, key=lambda i: line[i][1]), max(places, key=lambda i: line[i][1])}
    return [line[i] for i in sorted(kept)]


def smoothed(line: Sequence[Point], most: int = _MOST_POINTS // 2) -> list[Point]:
    """Means over a window a tenth of the line wide, half as wide at both ends, at `most` places at most."""
    sums = [0.0, *accumulate(value for _, value in line)]
    half, last = max(2, len(line) // 20), len(line) - 1
    count = min(most, len(line))
    found = []
    for place in (round(i * last / max(1, count - 1)) for i in range(count)):
        reach = max(min(half, place, last - place), half // 2)
        start, end = max(0, place - reach), min(last, place + reach) + 1
        found.append((line[place][0], (sums[end] - sums[start]) / (end - start)))
    return found


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from `low` to `high`, at equal distances of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-12)
    power = floor(log10(span / most))
    distance = next(
        d for p in (power, power + 1) for d in (10.0**p, 2 * 10.0**p, 5 * 10.0**p) if floor(span / d) + 1 <= most
    )
    first = -floor(-low / distance + 1e-9)
    return [number * distance for number in range(first, floor(high / distance + 1e-9) + 1)]
