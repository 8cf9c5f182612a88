"""A resumed run has the numbers of one that was never interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aprnb.errors import FileMissing, OutputError, TrainingError, UsageProblem
from aprnb.tuning.planning.saving import SaveRule
from aprnb.tuning.results.event_log import EventReader
from aprnb.tuning.training.events import EvalEvent, Finished, Saved, StepEvent
from aprnb.tuning.training.interrupt import Interrupt
from aprnb.tuning.training.saving import state_files as state_module
from aprnb.tuning.training.saving.state import RunState
from aprnb.tuning.training.saving.state_files import load_state, save_state, saved_steps
from aprnb_tests.tiny import TinyRun, identity_of, losses, saver, tiny_run

TESTS = Path(__file__).parent.parent


def dropout_run() -> TinyRun:
    return tiny_run(lora_dropout=0.1)


def saved_state(folder: Path) -> RunState:
    run = tiny_run()
    list(run.events(save=saver(folder)))
    return load_state(folder, identity_of(run.recipe))


def interrupted_after(step: int, run: TinyRun, folder: Path) -> list[Any]:
    interrupt, events = Interrupt(), []
    for event in run.events(save=saver(folder), interrupt=interrupt):
        events.append(event)
        if isinstance(event, StepEvent) and event.step == step:
            interrupt.request()
    return events


def test_an_interrupted_run_resumes_with_the_same_losses(tmp_path: Path) -> None:
    expected = list(dropout_run().events())
    first = interrupted_after(3, dropout_run(), tmp_path)
    assert first[-1] == Finished("interrupted", 3)
    run = dropout_run()
    second = list(run.events(state=load_state(tmp_path, identity_of(run.recipe)), save=saver(tmp_path)))
    assert losses(first) + losses(second) == losses(expected)
    evals = [[event.eval_loss for event in part if isinstance(event, EvalEvent)] for part in (expected, first, second)]
    assert evals[1] + evals[2] == evals[0]


@pytest.mark.parametrize("held_out", [True, False], ids=["saved before the step", "saved by the interrupt"])
def test_an_interrupt_inside_a_step_saves_the_step_before(tmp_path: Path, held_out: bool) -> None:
    def run() -> TinyRun:
        return tiny_run(lora_dropout=0.1, held_out=held_out)

    interrupt, first_run = Interrupt(), run()
    seen = []

    def press(module: Any, args: Any) -> None:
        seen.append(module.training)
        # Training passes: two for step 1 and one for step 2, so the fourth is the first half of step 3.
        if seen.count(True) == 4:
            interrupt.request()

    first_run.model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(press)
    first = list(first_run.events(save=saver(tmp_path), interrupt=interrupt, saving=SaveRule(None, None)))
    assert first[-1] == Finished("interrupted", 2)
    again = run()
    second = list(again.events(state=load_state(tmp_path, identity_of(again.recipe))))
    assert losses(first) + losses(second) == losses(list(run().events()))


def test_a_run_that_was_killed_resumes_from_its_last_state_with_the_same_losses(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from aprnb_tests.tiny import saver, tiny_run
from aprnb.tuning.results.event_log import EventLog
from aprnb.tuning.training.events import StepEvent
log = EventLog(Path(sys.argv[2]))
for event in tiny_run(lora_dropout=0.1).events(save=saver(Path(sys.argv[1]))):
    log(event)
    if isinstance(event, StepEvent) and event.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    states, events = tmp_path / "states", tmp_path / "events.jsonl"
    command = [sys.executable, "-c", script, str(states), str(events)]
    killed = subprocess.run(command, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    run = dropout_run()
    state = load_state(states, identity_of(run.recipe))
    assert state.step == 4
    expected = losses(list(dropout_run().events()))
    assert losses(list(run.events(state=state))) == expected[4:]
    logged = [record["loss"] for record in EventReader(events).new() if record["event"] == "step"]
    assert logged == expected[:5], "every step is written as it happens, not with the state"


def test_an_incomplete_state_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = saved_state(tmp_path)

    def full(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OutputError("no space left")

    monkeypatch.setattr(state_module, "write_tensors", full)
    with pytest.raises(OutputError):
        save_state(tmp_path, dataclasses.replace(state, step=state.step + 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000005", "step-000006"]
    assert load_state(tmp_path, state.identity).step == 6


def test_the_two_newest_states_are_kept(tmp_path: Path) -> None:
    events = list(tiny_run(held_out=False).events(save=saver(tmp_path), saving=SaveRule(2, None)))
    assert [event.step for event in events if isinstance(event, Saved)] == [2, 4, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000006"]


def test_a_state_holds_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    saved_state(tmp_path)
    files = sorted(path.name for path in (tmp_path / "step-000006").iterdir())
    assert files == ["state.json", "tensors.safetensors"]
    document = json.loads((tmp_path / "step-000006" / "state.json").read_text())
    tensors = (tmp_path / "step-000006" / "tensors.safetensors").read_bytes()
    assert (document["step"], document["best"][0]) == (6, 6)
    assert document["tensors_sha256"] == hashlib.sha256(tensors).hexdigest()


def test_the_optimizer_comes_back_as_it_was(tmp_path: Path) -> None:
    run = tiny_run()
    states: list[RunState] = []

    def keep(state: RunState) -> Path:
        states.append(state)
        return save_state(tmp_path, state)

    list(run.events(save=keep))
    loaded = load_state(tmp_path, identity_of(run.recipe))
    saved = states[-1].optimizer
    assert loaded.optimizer["param_groups"] == [
        {**group, "betas": list(group["betas"])} for group in saved["param_groups"]
    ]
    for number, moments in saved["state"].items():
        assert all(torch.equal(loaded.optimizer["state"][number][name], value) for name, value in moments.items())


def test_a_different_recipe_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    saved_state(tmp_path)
    with pytest.raises(UsageProblem, match=r"--rank is 8; the saved run has 4"):
        load_state(tmp_path, identity_of(tiny_run(rank=8).recipe))


@pytest.mark.parametrize(("part", "words"), [("data", "the training rows"), ("base", "the base checkpoint")])
def test_different_rows_or_another_base_are_rejected(tmp_path: Path, part: str, words: str) -> None:
    state = saved_state(tmp_path)
    with pytest.raises(UsageProblem, match=f"{words} changed since the state was saved"):
        load_state(tmp_path, dataclasses.replace(state.identity, **{part: "other"}))


def test_a_missing_state_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match="no saved state"):
        load_state(tmp_path / "nowhere", identity_of(tiny_run().recipe))


def test_a_loss_that_is_not_finite_leaves_the_last_good_state(tmp_path: Path) -> None:
    run = tiny_run(held_out=False)
    with pytest.raises(TrainingError):
        for event in run.events(save=saver(tmp_path)):
            if isinstance(event, StepEvent) and event.step == 3:
                run.model.get_base_model().model.norm.weight.data.fill_(torch.nan)
    state = load_state(tmp_path, identity_of(run.recipe))
    assert state.step == 3
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


def test_a_resumed_run_counts_the_time_before(tmp_path: Path) -> None:
    first = interrupted_after(3, tiny_run(held_out=False), tmp_path)
    assert first[-1] == Finished("interrupted", 3)
    run = tiny_run(held_out=False)
    state = dataclasses.replace(load_state(tmp_path, identity_of(run.recipe)), elapsed_s=5_000.0)
    found = [event.elapsed_s for event in run.events(state=state) if isinstance(event, StepEvent)]
    assert 5_000 < found[0] < found[-1] < 5_100


def test_the_best_state_stays_when_older_ones_go(tmp_path: Path) -> None:
    state = saved_state(tmp_path / "run")
    for step in (1, 2, 3, 4, 5):
        save_state(tmp_path / "states", dataclasses.replace(state, step=step, best=(min(step, 2), 1.0)))
    assert saved_steps(tmp_path / "states") == (2, 4, 5)
