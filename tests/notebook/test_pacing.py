from __future__ import annotations

from aprnb.notebook.pacing import Pace


def test_numbers_come_at_most_five_times_a_second():
    pace = Pace(0.0)
    due = [now for now in (tick / 100 for tick in range(1000)) if pace.numbers_are_due(now)]
    assert 45 <= len(due) <= 51, "ten seconds"


def test_drawing_never_takes_more_than_a_hundredth_of_the_run():
    pace = Pace(0.0)
    pace.expect(0.2)
    now, drawn = 0.0, 0
    while now < 300.0:
        now += 0.05
        if pace.drawing_is_due(now):
            now += 0.2
            pace.drew(0.2)
            drawn += 1
            assert pace.share(now) <= 0.0101
    assert drawn >= 14, "0.2 s each in 300 s allows fifteen"


def test_a_slower_drawing_is_waited_for_longer():
    pace = Pace(0.0)
    pace.expect(0.1)
    assert pace.drawing_is_due(10.0)
    pace.drew(1.0)
    assert not pace.drawing_is_due(150.0), "1 s spent and 1 s to come need 200 s"
    assert pace.drawing_is_due(200.0)
