"""The progress bar of a conversion: what it shows, and that it is removed."""

from __future__ import annotations

import pytest
from IPython.utils.capture import capture_output

from aprnb.notebook.bar import Bar


class Live:
    """A screen that a browser looks at."""

    is_live = True


class Unseen:
    is_live = False


pytestmark = pytest.mark.usefixtures("shell")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each look at the clock finds it a second later."""
    seconds = iter(range(1000))
    monkeypatch.setattr("aprnb.notebook.bar.time.monotonic", lambda: float(next(seconds)))


def test_it_shows_the_bytes_done_and_then_is_removed():
    with capture_output() as captured, Bar(Live()) as bar:
        bar(1 << 20, 4 << 20)
        bar(2 << 20, 4 << 20)
    shown = [output.data for output in captured.outputs]
    assert 'value="1048576" max="4194304"' in shown[0]["text/html"]
    assert shown[0]["text/plain"] == "1.00 MiB of 4.00 MiB"
    assert shown[-1] == {"text/plain": "", "text/html": ""}


def test_it_is_gone_after_an_error_too():
    with capture_output() as captured, pytest.raises(ValueError, match="broke"), Bar(Live()) as bar:
        bar(1, 4)
        raise ValueError("broke")
    assert captured.outputs[-1].data == {"text/plain": "", "text/html": ""}


def test_nothing_is_shown_without_a_front_end():
    with capture_output() as captured, Bar(Unseen()) as bar:
        bar(1, 4)
        bar(4, 4)
    assert captured.outputs == []


def test_quick_work_shows_nothing(monkeypatch):
    monkeypatch.setattr("aprnb.notebook.bar.time.monotonic", lambda: 5.0)
    with capture_output() as captured, Bar(Live()) as bar:
        bar(4, 4)
    assert captured.outputs == []
