from __future__ import annotations

import pytest

from aprnb.display.curve_points import points, smoothed, thinned, ticks


def test_values_that_are_not_finite_are_left_out():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": float("inf")}]
    assert points(rows, "loss") == [(1, 2.0)]


def test_a_thinned_line_keeps_its_ends_and_its_peak():
    line = [(step, 9.0 if step == 5_555 else 1.0 + step / 1e6) for step in range(10_000)]
    found = thinned(line, 400)
    assert len(found) <= 400
    assert (found[0], found[-1]) == (line[0], line[-1])
    assert (5_555, 9.0) in found
    assert found == sorted(found)


def test_a_short_line_is_not_thinned():
    assert thinned([(1, 2.0), (2, 1.0)]) == [(1, 2.0), (2, 1.0)]
    assert thinned([]) == smoothed([]) == []


def test_smoothing_is_the_mean_over_a_tenth_of_the_line():
    line = [(step, float(step % 2)) for step in range(1000)]
    found = smoothed(line, 1000)
    # 101 values around each, 50 or 51 of them ones; at the ends at least 25.
    assert found[500] == (500, 51 / 101 if 450 % 2 else 50 / 101)
    assert all(abs(value - 0.5) <= 0.05 for _, value in found)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [(0, 10, 6, [0, 2, 4, 6, 8, 10]), (0.13, 0.31, 4, [0.15, 0.2, 0.25, 0.3]), (2.5, 2.5, 6, []), (0, 10_000, 6, None)],
)
def test_ticks_are_round_numbers(low, high, most, expected):
    found = ticks(low, high, most)
    assert len(found) <= most
    if expected:
        assert found == pytest.approx(expected)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found) or low == high
