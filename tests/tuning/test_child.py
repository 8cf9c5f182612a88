"""A run in a process of its own: its events, its errors, its end, and the end of the process that started it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.errors import DataError, FileMissing, OutputExists, TrainingError, UsageProblem, error_from_json
from aprnb.tuning.child import finetune_in_child
from aprnb.tuning.results.lock import holder_of
from aprnb.tuning.training.events import Finished, Notice, Phase, Planned, StepEvent

LONG = {"epochs": 40, "batch_size": 4, "rank": 4, "method": "lora"}


@pytest.fixture
def asked(repository: Path, tmp_path: Path) -> dict[str, Any]:
    return {"data": str(repository / "notebooks/ask-the-cow.jsonl"), "output": str(tmp_path / "out.apr"), **LONG}


def until(holds: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def steps_in(folder: Path) -> int:
    events = folder / "events.jsonl"
    return events.read_text().count('"event": "step"') if events.exists() else 0


def started(pocket: Path, asked: dict[str, Any], **options: Any) -> subprocess.Popen[bytes]:
    """Another process that starts the run and waits for it."""
    program = (
        "import json, sys; from aprnb.tuning.child import finetune_in_child\n"
        "base, given, options = json.loads(sys.argv[1])\n"
        "run = finetune_in_child(base, given, lambda event: None, **options); print(run.status, 'torch' in sys.modules)"
    )
    argument = json.dumps([str(pocket), asked, options])
    return subprocess.Popen([sys.executable, "-c", program, argument], stdout=subprocess.PIPE)


def test_the_child_trains_and_its_parent_imports_no_torch(pocket_qwen3: Path, asked: dict[str, Any]) -> None:
    parent = started(pocket_qwen3, asked | {"max_steps": 2})
    assert parent.communicate(timeout=120)[0].decode().split() == ["finished", "False"]
    run = aprnb.open_run(Path(asked["output"]).with_suffix(".run"))
    assert (run.status, len(run.metrics), run.output) == ("finished", 2, Path(asked["output"]))
    assert holder_of(run.where.lock) == {}


def test_its_events_are_those_of_a_run_in_this_process(pocket_qwen3: Path, asked: dict[str, Any]) -> None:
    import pandas

    heard: list[Any] = []
    rows = pandas.read_json(asked["data"], lines=True)
    options = asked | {"data": rows, "max_steps": 3, "adapter_only": True}
    run = finetune_in_child(pocket_qwen3, options, heard.append)
    own = aprnb.finetune(pocket_qwen3, **options | {"output": asked["output"].replace("out", "own")})
    assert [event.loss for event in heard if isinstance(event, StepEvent)] == list(own.metrics["loss"])
    assert list(run.evaluations["eval_loss"]) == list(own.evaluations["eval_loss"])
    planned = next(event for event in heard if isinstance(event, Planned))
    assert planned.plan.to_json()["steps"] == 3
    assert any(isinstance(event, Notice) and "started in" in event.text for event in heard)
    assert [event for event in heard if not isinstance(event, Phase)][-1] == Finished("finished", 3)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"data": "missing.jsonl"}, FileMissing),
        ({"data": [{"instruction": "x"}]}, DataError),
        ({"rank": 0}, UsageProblem),
    ],
    ids=["file", "rows", "option"],
)
def test_its_errors_come_back_as_what_they_are(
    pocket_qwen3: Path, asked: dict[str, Any], wrong: dict[str, Any], kind: type[aprnb.AprnbError]
) -> None:
    with pytest.raises(kind) as caught:
        finetune_in_child(pocket_qwen3, asked | wrong, lambda _: None)
    assert caught.value.exit_code == kind.exit_code
    assert not Path(asked["output"]).with_suffix(".run").exists()


def test_an_error_is_the_same_after_json() -> None:
    for error in (OutputExists("x exists", action="choose another"), UsageProblem("a", expected="b", where="c")):
        again = error_from_json(json.loads(json.dumps(error.to_json())))
        assert (type(again), str(again)) == (type(error), str(error))
    assert type(error_from_json({"kind": "closest", "found": "x"})) is aprnb.AprnbError


def test_an_interrupt_of_the_parent_saves_and_ends_the_run(pocket_qwen3: Path, asked: dict[str, Any]) -> None:
    def press(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = finetune_in_child(pocket_qwen3, asked, press)
    assert signal.getsignal(signal.SIGINT) is before
    assert run.status == "interrupted"
    assert run.history.saved is not None
    assert run.history.saved.step == len(run.metrics) >= 3


def test_a_killed_child_is_an_error_that_names_the_signal_and_the_saved_step(
    pocket_qwen3: Path, asked: dict[str, Any]
) -> None:
    lock = Path(asked["output"]).with_suffix(".run") / "lock"

    def kill(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 4:
            os.kill(holder_of(lock)["process"], signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"SIGKILL.*memory runs out[^→]*→ run it again with --resume.*step [23] is"):
        finetune_in_child(pocket_qwen3, asked | {"save_every": "1"}, kill)
    run = aprnb.open_run(lock.parent)
    assert run.status == "killed"


def test_a_run_in_the_foreground_saves_and_ends_when_its_parent_is_killed(
    pocket_qwen3: Path, asked: dict[str, Any]
) -> None:
    parent, folder = started(pocket_qwen3, asked), Path(asked["output"]).with_suffix(".run")
    until(lambda: steps_in(folder) >= 2)
    parent.kill()
    until(lambda: aprnb.open_run(folder).status != "running")
    assert aprnb.open_run(folder).status == "interrupted"


def test_a_run_in_the_background_goes_on_without_its_parent_and_is_stopped_by_anyone(
    pocket_qwen3: Path, asked: dict[str, Any]
) -> None:
    parent, folder = started(pocket_qwen3, asked, background=True), Path(asked["output"]).with_suffix(".run")
    assert parent.communicate(timeout=120)[0].decode().split()[0] == "running"
    before = steps_in(folder)
    until(lambda: steps_in(folder) > before + 1)
    run = aprnb.open_run(folder)
    with pytest.raises(OutputExists, match=rf"in use by process {holder_of(run.where.lock)['process']} on "):
        aprnb.finetune(pocket_qwen3, **asked | {"force": True})
    run.stop()
    heard: list[Any] = []
    run.follow(heard.append, pause_s=0.1)
    assert run.status == "interrupted"
    assert [event.step for event in heard if isinstance(event, StepEvent)] == list(run.metrics["step"])
