"""What ends a run before its time, and what is found damaged afterwards: nothing is lost but the steps since a save."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.errors import CheckpointError, Interrupted
from aprnb.tuning.training.events import Notice, StepEvent

ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fish", "cow", "hen", "goat")]


def tune(base: Path, folder: Path, listener: Any = None, **options: Any) -> aprnb.Run:
    given = {"epochs": 2, "batch_size": 2, "rank": 2, "val_split": 0, "dtype": "float32", "save_every": 1, "keep": 3}
    given |= {"device": "cpu", "adapter_only": True, **options}
    return aprnb.finetune(base, data=ROWS, output=str(folder / "x.apr"), listener=listener, **given)


# ---- signals


@pytest.fixture()
def default_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP as a shell leaves them; nohup, which the tests may run under, ignores SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_ends_the_run_and_its_handler_is_as_before(
    pocket_qwen3: Path, tmp_path: Path, name: str
) -> None:
    number = getattr(signal, name)

    def listen(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    run = tune(pocket_qwen3, tmp_path, listen, save_every="1h")
    assert signal.getsignal(number) is before
    assert (run.status, run.exit_code, run.history.saved and run.history.saved.step) == ("interrupted", 130, 3)
    steps: list[int] = []
    tune(pocket_qwen3, tmp_path, lambda event: steps.append(event.step) if isinstance(event, StepEvent) else None,
         save_every="1h", resume=True)  # fmt: skip
    assert steps == [4]


@pytest.mark.usefixtures("default_signals")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_a_signal_outside_the_training_ends_the_run_with_what_is_saved(pocket_qwen3: Path, tmp_path: Path) -> None:
    """By default SIGTERM and SIGHUP would end this process here."""

    def listening(number: int, name: str) -> Any:
        return lambda event: signal.raise_signal(number) if str(event).startswith(name) else None

    with pytest.raises(KeyboardInterrupt):
        tune(pocket_qwen3, tmp_path, listening(signal.SIGHUP, "encoding"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(Interrupted, match="the state of step 1 is saved"):
        tune(pocket_qwen3, tmp_path, listening(signal.SIGTERM, "writing the adapter"), max_steps=1)
    assert aprnb.open_run(tmp_path / "x.run").status == "interrupted"
    assert not aprnb.open_run(tmp_path / "x.run").where.is_running
    assert signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# ---- damaged states


@pytest.fixture(scope="module")
def interrupted(pocket_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the states of steps 1 to 3 of 4."""
    folder = tmp_path_factory.mktemp("interrupted")

    def listen(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            (folder / "x.run" / "stop").touch()

    assert tune(pocket_qwen3, folder, listen).status == "interrupted"
    return folder


@pytest.fixture
def stopped(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "stopped"))


def state(folder: Path, step: int) -> Path:
    return folder / "x.run" / "states" / f"step-{step:06d}"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "tensors cut off": lambda folder: cut(folder / "tensors.safetensors"),
    "a flipped bit": lambda folder: flip(folder / "tensors.safetensors"),
    "no tensors": lambda folder: (folder / "tensors.safetensors").unlink(),
    "a document cut off": lambda folder: cut(folder / "state.json"),
    "an empty document": lambda folder: (folder / "state.json").write_bytes(b""),
}


class Resumed:
    """A listener: the notices, the steps, and which states there were when the first step began."""

    def __init__(self, folder: Path) -> None:
        self._states = folder / "x.run" / "states"
        self.notices: list[str] = []
        self.steps: list[int] = []
        self.states: list[str] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.text)
            self.states = self.states or sorted(path.name for path in self._states.iterdir())
        if isinstance(event, StepEvent):
            self.steps.append(event.step)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_named_and_the_one_before_it_used(pocket_qwen3: Path, stopped: Path, damage: str) -> None:
    DAMAGES[damage](state(stopped, 3))
    heard = Resumed(stopped)
    run = tune(pocket_qwen3, stopped, heard, resume=True)
    assert (run.status, heard.steps) == ("finished", [3, 4])
    [named] = [text for text in heard.notices if "the state before it is used" in text]
    assert str(state(stopped, 3)) in named
    assert "resuming after step 2 of 4" in heard.notices


def test_the_state_that_is_used_stays_whatever_number_is_kept(pocket_qwen3: Path, stopped: Path) -> None:
    for step in (2, 3):
        flip(state(stopped, step) / "tensors.safetensors")
    heard = Resumed(stopped)

    def stop_after_2(event: Any) -> None:
        heard(event)
        if isinstance(event, StepEvent) and event.step == 2:
            (stopped / "x.run" / "stop").touch()

    assert tune(pocket_qwen3, stopped, stop_after_2, resume=True, keep=1).status == "interrupted"
    assert heard.states == ["step-000001", "step-000002", "step-000003"]
    again = Resumed(stopped)
    assert tune(pocket_qwen3, stopped, again, resume=True, keep=1).status == "finished"
    assert again.steps == [3, 4], "the state of step 2 was written anew, although a damaged one is newer"


def test_where_every_state_is_damaged_the_error_says_so_and_removes_nothing(pocket_qwen3: Path, stopped: Path) -> None:
    for step in (1, 2, 3):
        flip(state(stopped, step) / "tensors.safetensors")
    for resume in (True, "auto"):
        with pytest.raises(CheckpointError, match=r"step-000003(.|\n)*so are the 2 before it(.|\n)*--force") as caught:
            tune(pocket_qwen3, stopped, resume=resume)
        assert caught.value.exit_code == 4
    assert all(state(stopped, step).is_dir() for step in (1, 2, 3))
    assert tune(pocket_qwen3, stopped, force=True).status == "finished"
