from __future__ import annotations

from aprnb.notebook.pacing import Pace


def refreshes(seconds: float, each_s: float) -> list[float]:
    """When a pace that is asked a hundred times a second lets refreshes begin that take `each_s`."""
    pace, now, begun = Pace(0.0), 0.0, []
    while now < seconds:
        if pace.is_due(now):
            begun.append(now)
            pace.refreshed(now, now + each_s)
            now += each_s
        now += 0.01
    return begun


def test_quick_refreshes_come_at_most_five_times_a_second():
    assert 45 <= len(refreshes(10.0, 0.001)) <= 51, "ten seconds"


def test_slow_refreshes_take_a_fiftieth_of_the_time():
    begun = refreshes(300.0, 0.1)
    assert 0.9 * 60 <= len(begun) <= 60, "0.1 s each, a fiftieth of 300 s is 6 s"
