"""The same command run again: what is finished stays, what was stopped goes on, what is longer is trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import aprnb
from aprnb.errors import CheckpointError, NoSpace, UsageProblem
from aprnb.formats import atomic
from aprnb.tuning import starting
from aprnb.tuning.training.events import Notice, Planned, StepEvent

ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fish", "cow", "hen", "goat")]


@pytest.fixture
def again(pocket_qwen3: Path, tmp_path: Path) -> Any:
    """Runs the same command; returns the run, and the steps and notices that it told."""

    def run(listener: Any = lambda _: None, **options: Any) -> tuple[aprnb.Run, list[int], list[str]]:
        told: list[Any] = []

        def listen(event: Any) -> None:
            told.append(event)
            listener(event)

        given = {"data": ROWS, "epochs": 2, "batch_size": 2, "rank": 2, "val_split": 0, "dtype": "float32", **options}
        given = {"output": str(tmp_path / "x.apr"), "device": "cpu", "resume": "auto", **given}
        found = aprnb.finetune(pocket_qwen3, listener=listen, **given)
        steps = [event.step for event in told if isinstance(event, StepEvent)]
        return found, steps, [event.text for event in told if isinstance(event, Notice)]

    return run


def test_a_finished_run_is_found_and_nothing_is_done_again(again: Any, tmp_path: Path) -> None:
    first, steps, _ = again()
    assert steps == [1, 2, 3, 4]
    written = (tmp_path / "x.apr").stat().st_mtime_ns
    second, steps, notices = again()
    assert (steps, second.status, (tmp_path / "x.apr").stat().st_mtime_ns) == ([], "finished", written)
    assert notices == ["the run is finished after step 4; more --epochs train it on"]
    assert second.metrics.equals(first.metrics)


def test_a_finished_run_is_found_without_measuring(again: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    again()
    monkeypatch.setattr("aprnb.tuning.finetune.timed", lambda *_: pytest.fail("measured for nothing"))
    assert again()[0].status == "finished"


def test_a_result_that_was_removed_is_written_again_without_a_step(again: Any, tmp_path: Path) -> None:
    again()
    content = (tmp_path / "x.apr").read_bytes()
    (tmp_path / "x.apr").unlink()
    assert again()[1] == []
    assert (tmp_path / "x.apr").read_bytes() == content


def test_a_finished_run_is_not_the_answer_to_another_recipe(again: Any) -> None:
    again()
    with pytest.raises(UsageProblem, match=r"--rank is 4; the saved run has 2"):
        again(rank=4)
    with pytest.raises(UsageProblem, match="the training rows changed"):
        again(data=ROWS[:3])
    with pytest.raises(UsageProblem, match=r"the saved run has made 4 steps, this one has 2.*\n→ give the --epochs"):
        again(epochs=1)
    assert again(epochs=2)[1] == []
    assert again(epochs=1, resume=False, force=True)[1] == [1, 2]


def test_a_finished_run_is_trained_on_with_more_epochs(again: Any, tmp_path: Path) -> None:
    first, _, _ = again()
    base, tuned = (tmp_path / "x.apr").read_bytes(), first.metrics
    longer, steps, notices = again(epochs=3)
    assert steps == [5, 6]
    assert "the finished run is trained on: the rates are those of 6 steps" in notices
    assert longer.metrics[:4].equals(tuned)
    timed = (tuned.tokens / tuned.tokens_per_s)[1:].mean()  # the first step warms up
    assert longer.plan.forecast.step == pytest.approx(timed), "the steps before say how long the others take"
    assert longer.plan.seconds.steps == pytest.approx(2 * timed)
    assert (longer.plan.total_steps, longer.to_json()["steps"]) == (6, 6)
    assert (tmp_path / "x.apr").read_bytes() != base
    recipe = (tmp_path / "x.run" / "recipe.toml").read_text("utf-8")
    assert "epochs = 3" not in recipe  # the default
    assert "epochs" not in recipe
    assert again(epochs=3)[1] == []


def test_a_refused_base_changes_nothing_of_a_finished_run(again: Any, pocket_qwen3: Path, tmp_path: Path) -> None:
    run, _, _ = again(save_every=1)
    shutil.copytree(run.where.states / "step-000003", run.where.states / "step-000001")  # one too many
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    aprnb.convert(pocket_qwen3, tmp_path / "other.apr", dtype="F16")
    with pytest.raises(UsageProblem, match="the base checkpoint changed"):
        aprnb.finetune(
            tmp_path / "other.apr", data=ROWS, epochs=3, batch_size=2, rank=2, val_split=0, dtype="float32",
            output=tmp_path / "x.apr", device="cpu", resume=True,
        )  # fmt: skip
    (tmp_path / "other.apr").unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == whole
    assert aprnb.open_run(run.where.run).status == "finished"


def test_a_stop_asked_for_before_the_model_is_loaded_is_obeyed(again: Any, tmp_path: Path) -> None:
    def ask(event: Any) -> None:
        if isinstance(event, Planned):
            assert event.run is not None
            (event.run / "stop").touch()

    assert again(ask, resume=False)[0].status == "interrupted"


def test_a_run_that_prepares_itself_is_running_whatever_it_was_before(again: Any, tmp_path: Path) -> None:
    again()
    seen = []

    def look(event: Any) -> None:
        if isinstance(event, Planned):
            run = aprnb.open_run(tmp_path / "x.run")
            seen.append(run.status)
            run.stop()

    assert again(look, epochs=3)[0].status == "interrupted"
    assert seen == ["running"]


def test_training_on_that_was_stopped_at_once_can_be_continued(again: Any, tmp_path: Path) -> None:
    again()

    def stop(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(aprnb.errors.Interrupted):
        again(stop, epochs=3)
    assert again(epochs=3)[1] == [5, 6]


# ---- an adapter as the start of a new run

NEW = [{"instruction": f"Spell {word}.", "response": "No, never."} for word in ("fish", "cow", "hen", "goat")]


@pytest.fixture
def adapter(pocket_qwen3: Path, tmp_path: Path) -> Path:
    """Rank 2, of the query projections."""
    (tmp_path / "first").mkdir()
    run = aprnb.finetune(
        pocket_qwen3, data=NEW, output=str(tmp_path / "first" / "a.apr"), val_split=0, device="cpu", dtype="float32",
        adapter_only=True, epochs=2, batch_size=2, rank=2, alpha=5, target_modules="q_proj", learning_rate=1e-2,
    )  # fmt: skip
    assert run.adapter
    return run.adapter


def test_an_adapter_is_trained_on_where_it_ended(adapter: Path, again: Any, pocket_qwen3: Path, tmp_path: Path) -> None:
    merged = aprnb.merge(pocket_qwen3, adapter, tmp_path / "merged.apr", output_dtype="F32").path
    started = again(data=NEW, rank=None, start_adapter=str(adapter), max_steps=1)[0]
    recipe, first = started.plan.to_json()["recipe"], started.history.steps[0]["loss"]
    assert (recipe["rank"], recipe["alpha"], recipe["target_modules"]) == (2, 5.0, ["q_proj"])
    of_merged = aprnb.finetune(
        merged, data=NEW, epochs=2, batch_size=2, rank=2, val_split=0, dtype="float32", device="cpu", max_steps=1,
        output=str(tmp_path / "y.apr"), adapter_only=True,
    )  # fmt: skip
    assert first == pytest.approx(of_merged.history.steps[0]["loss"], rel=1e-5)
    assert abs(first - again(data=NEW, force=True, resume=False, max_steps=1)[0].history.steps[0]["loss"]) > 0.1


def test_an_adapter_that_does_not_fit_is_rejected_by_name(adapter: Path, again: Any, real: Any, tmp_path: Path) -> None:
    start = {"start_adapter": str(adapter), "rank": None}
    with pytest.raises(UsageProblem, match="--rank 4 with --adapter, which has 2"):
        again(**{**start, "rank": 4})
    with pytest.raises(UsageProblem, match="--adapter with --method full"):
        again(**start, method="full")
    with pytest.raises(aprnb.errors.FileMissing, match="no adapter folder at none"):
        again(start_adapter="none", rank=None)
    with pytest.raises(UsageProblem, match="another base"):
        aprnb.finetune(
            real("pocket-qwen2"), data=ROWS, output=str(tmp_path / "z.apr"), val_split=0, device="cpu", **start
        )


def test_another_adapter_at_resume_is_named(adapter: Path, again: Any, tmp_path: Path) -> None:
    start = {"start_adapter": str(adapter), "rank": None}
    again(**start)
    assert str(adapter) in (tmp_path / "x.run" / "recipe.toml").read_text("utf-8")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(UsageProblem, match="begins with another adapter than the saved run.*\n→ give the --adapter"):
        again(**start)
    with pytest.raises(UsageProblem, match="the saved run began with an adapter, none is given here"):
        again(rank=None)


def test_a_run_that_was_not_finished_keeps_its_length(again: Any, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 2:
            (tmp_path / "x.run" / "stop").touch()

    assert again(stop)[0].status == "interrupted"
    with pytest.raises(UsageProblem, match=r"--epochs is 3; the saved run has 2"):
        again(epochs=3)
    assert again()[1] == [3, 4]


# ---- what a kill leaves before the plan is written


@pytest.mark.parametrize("left", [(), ("lock",), ("lock", "files.json"), ("lock", ".aprnb-01234567-89abcdef.part")])
def test_a_folder_that_was_only_begun_is_started_again(again: Any, tmp_path: Path, left: tuple[str, ...]) -> None:
    (tmp_path / "x.run").mkdir()
    for name in left:
        (tmp_path / "x.run" / name).write_text("{}")
    assert again(max_steps=1, adapter_only=True)[0].status == "finished"


def test_a_run_that_found_no_space_for_its_plan_is_started_again(
    again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json = starting.write_json

    def full_at_the_plan(path: Path, document: Any, force: bool) -> None:
        if path.name == "plan.json":
            raise NoSpace(f"no space left to write {path}")
        write_json(path, document, force)

    with monkeypatch.context() as patched:
        patched.setattr(starting, "write_json", full_at_the_plan)
        with pytest.raises(NoSpace, match=r"plan\.json"):
            again(max_steps=1, adapter_only=True)
    assert (tmp_path / "x.run" / "recipe.toml").exists()
    assert again(max_steps=1, adapter_only=True)[0].status == "finished"


def test_what_a_killed_process_left_beside_and_one_state_too_many_go(again: Any, tmp_path: Path) -> None:
    again(save_every=1, keep=2)
    states = tmp_path / "x.run" / "states"
    assert sorted(path.name for path in states.iterdir()) == ["step-000003", "step-000004"]
    shutil.copytree(states / "step-000003", states / "step-000001")
    (tmp_path / atomic._work_name(tmp_path / "x.run")).mkdir()
    again(save_every=1, keep=2)
    assert sorted(path.name for path in states.iterdir()) == ["step-000003", "step-000004"]
    assert not list(tmp_path.glob(".aprnb-*"))


def test_a_folder_with_a_file_of_the_user_stays(again: Any, tmp_path: Path) -> None:
    (tmp_path / "x.run").mkdir()
    (tmp_path / "x.run" / "notes.txt").write_text("mine")
    with pytest.raises(aprnb.errors.OutputExists):
        again(max_steps=1)
    assert (tmp_path / "x.run" / "notes.txt").read_text() == "mine"


# ---- what device and memory decided


def test_a_resumed_run_keeps_the_choices_that_memory_made(
    again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 2:
            (tmp_path / "x.run" / "stop").touch()

    first, _, _ = again(stop)
    settled = first.plan.to_json()["recipe"]
    assert (settled["method"], settled["gradient_checkpointing"]) == ("lora", "off")
    from aprnb.tuning.planning import settle

    monkeypatch.setattr(settle, "_USABLE", 1e-9)  # by now another program has the memory
    assert aprnb.plan(first.base, data=ROWS, val_split=0).to_json()["recipe"]["method"] == "qlora"
    second, steps, _ = again()
    assert steps == [3, 4]
    assert {**second.plan.to_json()["recipe"], "resume": 0} == {**settled, "resume": 0}


def test_another_number_of_threads_is_told(again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 2:
            (tmp_path / "x.run" / "stop").touch()

    again(stop)
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    assert any("7 threads, before it were" in text for text in again()[2])


# ---- the model of the lowest held-out loss


def test_the_best_state_is_written_on_demand_and_again_the_last(
    pocket_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aprnb.tuning.finetune.timed", lambda preparation, _: preparation)  # four runs

    def run(**options: Any) -> tuple[aprnb.Run, dict[str, Any]]:
        rows = [*ROWS, {"instruction": "Spell dog.", "response": "no"}, {"instruction": "Spell cat.", "response": "no"}]
        found = aprnb.finetune(
            pocket_qwen3, data=rows, epochs=3, batch_size=2, rank=2, val_split=0.34, learning_rate=5e-3, eval_every=1,
            output=str(tmp_path / "x.apr"), device="cpu", dtype="float32", adapter_only=True, resume="auto", **options,
        )  # fmt: skip
        return found, load_file(tmp_path / "x.adapter" / "adapter_model.safetensors")

    def of_state(step: int) -> Any:
        state = load_file(tmp_path / "x.run" / "states" / f"step-{step:06d}" / "tensors.safetensors")
        return {name[6:].replace(".default", ""): tensor for name, tensor in state.items() if name.startswith("model/")}

    def equal(one: Any, other: Any) -> bool:
        return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)

    first, last = run()
    losses = first.evaluations["eval_loss"][1:]
    best = int(losses.argmin()) + 1
    assert best < first.plan.total_steps  # two of the rows teach what the held-out ones do not have
    assert equal(last, of_state(first.plan.total_steps))
    second, written = run(write_best=True)
    assert equal(written, of_state(best))
    assert second.to_json()["eval_loss"]["written_step"] == best
    (tmp_path / "x.run" / "states" / f"step-{best:06d}" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="without --write-best"):
        run(write_best=True, force=True)
    assert equal(run()[1], last)
    with pytest.raises(UsageProblem, match="--write-best without held-out rows"):
        aprnb.plan(pocket_qwen3, data=ROWS, val_split=0, write_best=True)
