"""The first interrupt requests a stop, the second stops, and the previous handler is always restored."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from aprnb.tuning.training.interrupt import Interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupt_only_requests_a_stop() -> None:
    with Interrupt() as interrupt:
        assert not interrupt.requested
        press()
        assert interrupt.requested


def test_the_second_interrupt_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupt():
        press()
        press()


def test_a_second_sigterm_still_waits_for_the_step() -> None:
    with Interrupt() as interrupt:
        try:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            pytest.fail("ended at once")
        assert interrupt.requested


def test_a_file_in_the_runs_folder_asks_for_a_stop(tmp_path: Path) -> None:
    with Interrupt(tmp_path / "stop") as interrupt:
        assert not interrupt.requested
        (tmp_path / "stop").symlink_to("nowhere")  # of any kind
        assert interrupt.requested
        (tmp_path / "stop").unlink()
        assert interrupt.requested


def test_the_previous_handler_is_restored_however_the_block_ends() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
    with pytest.raises(KeyError), Interrupt():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) == before


def test_an_ignored_signal_is_ignored_again_afterwards() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with Interrupt():
            pass
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hang_up_that_the_process_ignores_stays_ignored() -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_in_the_background_leaves_the_handler_alone_and_can_be_asked() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def background() -> None:
        with Interrupt() as interrupt:
            found.append(signal.getsignal(signal.SIGINT))
            interrupt.request()
            found.append(interrupt.requested)

    thread = threading.Thread(target=background)
    thread.start()
    thread.join()
    assert found == [before, True]
