"""A disk that is full when a state is saved, and one that may only be read when a run is resumed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import aprnb
from aprnb.adapters.files import WEIGHTS_NAME
from aprnb.errors import NoSpace, OutputError
from aprnb.tuning import execution
from aprnb.tuning.results import event_log
from aprnb.tuning.training.events import Notice, Saved, StepEvent
from aprnb.tuning.training.saving import saver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, and limits as Linux has them")
ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fish", "cow", "hen", "goat")]
STEPS = 4


def tune(base: Path, folder: Path, listener: Any = None, **options: Any) -> aprnb.Run:
    given = {"epochs": 2, "batch_size": 2, "rank": 2, "val_split": 0, "dtype": "float32", "save_every": 2}
    given |= {"device": "cpu", "adapter_only": True, **options}
    return aprnb.finetune(base, data=ROWS, output=str(folder / "x.apr"), listener=listener, **given)


@pytest.fixture(scope="module")
def whole(pocket_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> aprnb.Run:
    """A run whose disk is never full."""
    return tune(pocket_qwen3, tmp_path_factory.mktemp("whole"))


# ---- mounts


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`mounted(path, size)` is a file system of its own in memory, unmounted at the end; skips without root."""
    mounts: list[Path] = []

    def mount(path: Path, size: str = "8m") -> Path:
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "aprnb-test", path], capture_output=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
        mounts.append(path)
        return path

    yield mount
    for path in reversed(mounts):
        subprocess.run(["umount", path], check=True)


# ---- a full disk


class Disk(Protocol):
    folder: Path
    advice: str
    """How the error's advice begins."""

    def fill(self) -> None: ...

    def clear(self) -> None: ...


class SmallDisk:
    """A file system of 8 MiB, to be filled to its last byte."""

    advice = "free some space"

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        self._ballast.unlink()


class LimitedFiles:
    """Files of at most 32 KiB, which is what the system does at a quota: a state is larger, the log is smaller."""

    advice = "raise the limit"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        self._limit(32 << 10)

    def clear(self) -> None:
        import resource

        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture(params=["a full file system", "a limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(saver, "_LOOK_AGAIN_S", 0.05)
    if request.param == "a limit":
        limited = LimitedFiles(tmp_path)
        yield limited
        limited.clear()
    else:
        yield SmallDisk(request.getfixturevalue("mounted")(tmp_path / "disk"))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "x.run" / "events.jsonl").read_text().splitlines()]


def test_a_run_waits_where_a_save_finds_no_space_and_goes_on_when_there_is_some(
    disk: Disk, pocket_qwen3: Path, whole: aprnb.Run
) -> None:
    heard: list[Any] = []

    def listen(event: Any) -> None:
        heard.append(event)
        if isinstance(event, StepEvent) and event.step == 2:
            disk.fill()
        if isinstance(event, Notice) and "no space left to write" in event.text:
            assert "the run waits until there is space, or until it is stopped" in event.text
            assert not list((disk.folder / "x.run" / "states").iterdir()), "a half-written state"
            disk.clear()

    run = tune(pocket_qwen3, disk.folder, listen)
    assert run.status == "finished"
    assert [type(event) for event in heard if isinstance(event, Notice | Saved)][-3:] == [Notice, Saved, Saved]
    assert [(record["step"], record["loss"]) for record in log_of(disk.folder) if record["event"] == "step"] == [
        (step["step"], step["loss"]) for step in whole.history.steps
    ], "the log has the lines for which there was no space"
    assert sorted(path.name for path in (disk.folder / "x.run" / "states").iterdir()) == ["step-000002", "step-000004"]


@pytest.mark.parametrize("full_at", [1, 3], ids=["at the first save", "at the last save"])
def test_a_run_that_waits_for_space_can_be_stopped_and_loses_only_what_it_could_not_save(
    disk: Disk, pocket_qwen3: Path, whole: aprnb.Run, full_at: int
) -> None:
    def listen(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == full_at:
            disk.fill()
        if isinstance(event, Notice) and "no space left to write" in event.text:
            (disk.folder / "x.run" / "stop").touch()

    assert tune(pocket_qwen3, disk.folder, listen).status == "interrupted"
    assert not (disk.folder / "x.adapter").exists()
    disk.clear()
    run = tune(pocket_qwen3, disk.folder, resume="auto")
    assert run.status == "finished"
    assert [step["loss"] for step in run.history.steps] == [step["loss"] for step in whole.history.steps]


def test_a_disk_that_is_full_after_the_last_save_loses_no_step(
    disk: Disk, pocket_qwen3: Path, whole: aprnb.Run
) -> None:
    def listen(event: Any) -> None:
        if isinstance(event, Saved) and event.step == STEPS:
            disk.fill()

    with pytest.raises(NoSpace, match=rf"to write \S*x\.adapter\n→ every step is done and saved: {disk.advice}"):
        tune(pocket_qwen3, disk.folder, listen)
    disk.clear()
    steps: list[Any] = []
    run = tune(pocket_qwen3, disk.folder, lambda event: steps.append(event) if isinstance(event, StepEvent) else 0,
               resume=True)  # fmt: skip
    assert run.status == "finished"
    assert not steps
    assert (disk.folder / "x.adapter" / WEIGHTS_NAME).read_bytes() == (whole.where.adapter / WEIGHTS_NAME).read_bytes()


def test_a_log_that_cannot_be_completed_is_an_error(
    pocket_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def listen(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            monkeypatch.setattr(event_log.os, "write", full)

    with pytest.raises(NoSpace, match=r"events\.jsonl: its last \d+ lines are missing\n→ .*--resume auto"):
        tune(pocket_qwen3, tmp_path, listen)
    monkeypatch.undo()
    run = tune(pocket_qwen3, tmp_path, resume="auto")
    assert (run.status, log_of(tmp_path)[-1]["event"]) == ("finished", "end")


# ---- a disk that may only be read


@pytest.mark.parametrize("part", ["everything", "the outputs"])
@pytest.mark.parametrize("adapter_only", [True, False], ids=["adapter", "apr"])
def test_a_run_on_a_read_only_disk_is_not_resumed_and_no_model_is_loaded(
    mounted: Callable[..., Path], pocket_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str,
    adapter_only: bool,
) -> None:  # fmt: skip
    folder = mounted(tmp_path / "disk")
    if part == "the outputs":  # the run's own folder can still be written
        mounted(folder / "x.run")
        (folder / "x.run" / "files.json").write_text('{"files": []}')

    def stop(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 1:
            (folder / "x.run" / "stop").touch()

    assert tune(pocket_qwen3, folder, stop, force=True, adapter_only=adapter_only).status == "interrupted"
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    monkeypatch.setattr(execution, "build_model", None)  # a call would be a TypeError
    with pytest.raises(OutputError, match=r"x\.(adapter|apr) could not be written: Read-only file system"):
        tune(pocket_qwen3, folder, resume=True, adapter_only=adapter_only)
