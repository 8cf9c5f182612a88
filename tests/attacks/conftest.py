"""Makes the generators in this folder importable."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def nothing_waits() -> Iterator[None]:
    """Reading a pipe or a device would wait for ever."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError("the test took 300 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
