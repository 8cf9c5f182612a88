"""Runs side by side: what their table says, what differs, which is best; and the sweep that makes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb import cli
from aprnb.arguments import with_recipe
from aprnb.errors import AprnbError, FileMissing, UsageProblem
from aprnb.tuning.planning.recipe_reader import read_toml
from aprnb.tuning.results.history import History
from aprnb.tuning.results.places import claimed, places_of
from aprnb.tuning.results.run_document import run_document
from aprnb.tuning.sweep import combinations, read_sweep
from aprnb.tuning.training.events import StepEvent

ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fish", "cow", "hen", "goat")]
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 2, "val_split": 0.25, "adapter_only": True, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pocket_qwen3: Path) -> Path:
    """Two runs, of rank 2 and 4, and a folder that is none."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rank in (("small", 2), ("large", 4)):
        aprnb.finetune(pocket_qwen3, data=ROWS, output=str(folder / f"{name}.apr"), rank=rank, **QUICK)
    (folder / "broken.run").mkdir()
    (folder / "broken.run" / "plan.json").write_text("{")
    return folder


def test_a_folder_lists_its_runs_and_names_what_is_none(folder: Path) -> None:
    runs = aprnb.open_runs(folder)
    assert [run.where.run.name for run in runs.runs] == ["large.run", "small.run"]
    assert len(runs.unreadable) == 1
    assert "broken.run" in runs.unreadable[0]
    frame = runs.frame
    assert list(frame["rank"]) == [4, 2]
    assert list(frame["held-out loss"]) == [run.evaluations["eval_loss"].iloc[-1] for run in runs.runs]
    assert list(frame["lowest held-out loss"]) == [run.evaluations["eval_loss"][1:].min() for run in runs.runs]
    assert runs.best is not None
    assert runs.best.where.run.stem == ("large" if frame["held-out loss"].argmin() == 0 else "small")
    assert "image/png;base64" in runs.to_html()


def test_named_runs_are_compared_by_what_differs_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(folder / f"{name}.run") for name in ("small", "large")]
    text = str(aprnb.open_runs(*names))
    differing = text.partition("What differs in the recipes")[2].partition("Results")[0]
    assert [line.split() for line in differing.splitlines() if line.startswith(("rank", "alpha"))] == [
        ["rank", "2", "4"], ["alpha", "4", "8"],
    ]  # fmt: skip
    assert "learning_rate" not in differing
    assert cli.main(["runs", *names, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["recipe"]["rank"] for each in document["runs"]] == [2, 4]


def test_runs_on_other_rows_have_no_best(folder: Path, pocket_qwen3: Path, tmp_path: Path) -> None:
    aprnb.finetune(pocket_qwen3, data=ROWS[:3], output=str(tmp_path / "other.apr"), rank=2, **QUICK)
    assert aprnb.open_runs(folder / "small.run", tmp_path / "other.run").best is None


def test_a_folder_without_runs_and_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run here" in str(aprnb.open_runs())
    with pytest.raises(FileMissing, match="no folder none.run"):
        aprnb.open_runs("none.run")


def test_names_from_files_are_shown_and_not_run(folder: Path, tmp_path: Path) -> None:
    plan = json.loads((folder / "small.run" / "plan.json").read_text())
    plan["recipe"]["method"] = "<script>alert(1)</script>\x1b[31m"
    evil = tmp_path / "<b>$x_{$.run"
    evil.mkdir()
    (evil / "plan.json").write_text(json.dumps(plan))
    (evil / "events.jsonl").write_bytes((folder / "small.run" / "events.jsonl").read_bytes())
    runs = aprnb.open_runs(tmp_path)
    assert len(runs.runs) == 1
    assert not any(part in runs.to_html() for part in ("<script>", "\x1b", "<b>$"))
    assert "\x1b" not in str(runs)


def history_of(folder: Path, name: str, losses: list[float], written_step: int | None = None) -> None:
    """A run's folder with a held-out loss after each step, made from one that was trained."""
    copy = folder.parent / "copies" / f"{name}.run"
    copy.mkdir(parents=True)
    (copy / "plan.json").write_bytes((folder / "small.run" / "plan.json").read_bytes())
    records = [{"event": "start", "rows_sha256": {}}]
    records += [{"event": "eval", "time": 1.0, "step": step, "eval_loss": loss} for step, loss in enumerate(losses)]
    end = {"event": "end", "status": "finished"} | ({"written_step": written_step} if written_step else {})
    (copy / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (*records, end)))


def test_runs_are_ranked_by_what_they_wrote_and_not_by_what_they_passed(folder: Path) -> None:
    history_of(folder, "a", [4.0, 1.0, 3.0])  # was lowest, and wrote 3.0
    history_of(folder, "b", [4.0, 2.5, 2.4])
    history_of(folder, "c", [4.0, 2.0, 3.0], written_step=1)  # wrote its best
    runs = aprnb.open_runs(folder.parent / "copies")
    assert list(runs.frame["held-out loss"]) == [3.0, 2.4, 2.0]
    assert list(runs.frame["lowest after step"]) == [1, 2, 1]
    assert runs.best is runs.runs[2]
    text = str(runs)
    assert "lowest held-out loss: c (2.0000 for what it wrote, that of step 1)" in text
    assert "1.0000 at 1" in text
    assert "a: the held-out loss was lowest after step 1 (1.0000), that of step 2 is 3.0000" in text
    assert "--resume --write-best writes the model of step 1" in text
    assert "c: the held-out loss" not in text


def test_a_folder_that_is_removed_while_it_is_watched_is_an_error(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "small.run", tmp_path / "x.run")
    run = aprnb.open_run(tmp_path / "x.run")

    def listen(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 1:
            (tmp_path / "x.run").rename(tmp_path / "y.run")

    with pytest.raises(FileMissing, match=r"x\.run was removed or renamed while it was watched\n→ `aprnb runs FOLDER`"):
        run.follow(listen)
    assert str(aprnb.open_runs(tmp_path).runs[0].where.run.name) == "y.run"


def test_a_run_without_a_plan_yet_says_that_it_prepares_itself(tmp_path: Path) -> None:
    where = places_of(tmp_path / "x.run")
    with claimed(where, may_exist=False), pytest.raises(FileMissing, match="has no plan yet: its run prepares itself"):
        aprnb.open_run(where.run)


def test_a_killed_run_is_told_to_resume_only_where_a_state_was_saved(folder: Path) -> None:
    run = aprnb.open_run(folder / "small.run")
    history = History()
    history.take({"event": "start", "resumed_from": None})
    killed = run_document(run.where, "killed", history, run.plan).blocks[0]
    assert "no state was saved: run the same command again" in str(killed)
    history.take({"event": "saved", "step": 1, "path": "x"})
    killed = run_document(run.where, "killed", history, run.plan).blocks[0]
    assert "run the same command again with --resume, or --resume auto" in str(killed)


# ---- a run executed again from its recipe


def test_the_recipe_of_a_run_executes_it_again_and_replaces_it_on_demand(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("small.run", "small.adapter"):
        shutil.copytree(folder / name, tmp_path / name)
    names = ("small.run/recipe.toml", "small.run/rows.jsonl", "small.adapter/adapter_model.safetensors")
    before = [(tmp_path / name).read_bytes() for name in names]
    words = ["finetune", "--recipe", str(tmp_path / "small.run" / "recipe.toml")]
    assert cli.main(words) == 2
    assert "small.adapter exists" in capsys.readouterr().err
    assert cli.main([*words, "--force"]) == 0  # the rows that it reads are in the folder that it replaces
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert cli.main([*words, "--resume"]) == 0
    assert "the run is finished after step 2" in capsys.readouterr().err


def test_what_the_recipe_of_a_run_names_is_overridden_by_the_line(folder: Path, pocket_qwen3: Path) -> None:
    path = folder / "small.run" / "recipe.toml"
    found = with_recipe({"recipe": str(path)})
    assert found["checkpoint"] == str(pocket_qwen3)
    assert found["data"] == str(folder / "small.run" / "rows.jsonl")
    assert found["output"] == str(folder / "small.apr")
    given = {"recipe": str(path), "checkpoint": "other.apr", "data": "b.jsonl", "output": "c.apr", "rank": 8}
    assert {**found, **given}.items() - {("recipe", str(path))} == with_recipe(given).items()
    body = read_toml('model = "mine.apr"\n', texts=("model",))  # a recipe that was pasted into a cell
    assert with_recipe({"recipe": str(path)}, body)["checkpoint"] == "mine.apr"


def test_a_recipe_that_is_none_of_a_run_names_no_model_elsewhere(
    folder: Path, pocket_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_bytes((folder / "small.run" / "recipe.toml").read_bytes())
    with pytest.raises(UsageProblem, match="sets model to .*\n→ give the checkpoint on the command line"):
        with_recipe({"recipe": "mine.toml"})
    assert with_recipe({"recipe": "mine.toml", "checkpoint": str(pocket_qwen3)})["data"] == "rows.jsonl"
    (tmp_path / "evil.run").mkdir()
    (tmp_path / "evil.run" / "recipe.toml").write_text('model = "m.apr"\ndata = "/etc/passwd"\n')
    with pytest.raises(UsageProblem, match="sets data to /etc/passwd"):
        with_recipe({"recipe": "evil.run/recipe.toml"})
    (tmp_path / "evil.run" / "recipe.toml").write_text('data = "rows.jsonl"\n')
    (tmp_path / "evil.run" / "rows.jsonl").symlink_to("/etc/passwd")
    with pytest.raises(AprnbError, match=r"rows\.jsonl is a link"):
        with_recipe({"recipe": "evil.run/recipe.toml"})


# ---- the sweep


def test_a_sweep_is_every_combination_in_order() -> None:
    varied = read_sweep("learning_rate=1e-4,3e-4 rank=8,32")
    assert varied == {"learning_rate": (1e-4, 3e-4), "rank": (8, 32)}
    assert varied == read_sweep(read_toml("[sweep]\nlearning_rate = [1e-4, 3e-4]\nrank = [8, 32]\n")["sweep"])
    found = list(combinations("m.apr", {"output": "out/t.apr", "seed": 1}, varied))
    assert [words for words, _ in found] == [
        "learning_rate=0.0001 rank=8", "learning_rate=0.0001 rank=32", "learning_rate=0.0003 rank=8",
        "learning_rate=0.0003 rank=32",
    ]  # fmt: skip
    assert found[3][1] == {
        "output": str(Path("out/t-learning_rate=0.0003-rank=32.apr")), "seed": 1, "learning_rate": 3e-4, "rank": 32,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rank", "expected options and their values"),
        ("rank=", "expected options and their values"),
        ("rnk=8", "did you mean rank"),
        ("rank=x", "expected a whole number"),
        ("output=a.apr,b.apr", "--sweep of output"),
        ("rank=8 rank=16", "each option once"),
        ("seed=" + ",".join(map(str, range(65))), "65 runs; expected 1 to 64"),
    ],
)
def test_a_sweep_that_cannot_be_read_says_why(text: str, found: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        read_sweep(text)
    assert found in str(caught.value)


def test_the_command_trains_each_and_names_the_best(
    pocket_qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ["finetune", str(pocket_qwen3), "--data", str(rows), "--output", str(tmp_path / "t.apr"), "--epochs", "1",
             "--adapter-only", "--val-split", "0.25", "--sweep", "rank=2,4"]  # fmt: skip
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "run 2 of 2: rank=4" in said.err
    assert "lowest held-out loss: t-rank=" in said.out
    assert sorted(path.name for path in tmp_path.glob("*.run")) == ["t-rank=2.run", "t-rank=4.run"]
    assert cli.main([*words, "--plan"]) == 2
    assert cli.main([*words, "--resume", "auto"]) == 0


def test_an_interrupted_sweep_ends_with_the_run_that_was_stopped() -> None:
    from aprnb.tuning.sweep import sweep

    class Stopped:
        exit_code = 130

    calls: list[str] = []

    def run(words: str, _: dict[str, Any]) -> Any:
        calls.append(words)
        return Stopped()

    assert sweep("m.apr", {}, {"rank": (2, 4)}, run).exit_code == 130
    assert calls == ["run 1 of 2: rank=2"]


def test_unreadable_recipes_stay_errors() -> None:
    with pytest.raises(AprnbError, match="unknown option 'sweep'"):
        read_toml("sweep = 3")
