"""The command line: one document with `--json`, keys that scripts rely on, exit codes that equal the verdict."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Sums, answered in another way than the shipped model does ("two plus three is five."): something to learn, and near
# enough to what it knows that the base loss stays below the gate.
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = [
    {"instruction": f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", "response": f"The sum is {NUMBERS[a + b]}."}
    for a, b in [(1, 1), (1, 2), (2, 2), (2, 3), (3, 4), (4, 1), (5, 2), (3, 3)]
]
PLAN_KEYS = {
    "architecture", "method", "parameters", "data", "steps", "memory_bytes", "device", "dtype", "attention",
    "assumptions", "warnings",
}  # fmt: skip
MEMORY_KEYS = {"weights", "adapters", "gradients", "optimizer", "activations", "logits", "total"}
FINETUNE_KEYS = {
    "status", "output", "adapter", "run", "steps", "loss", "eval_loss", "tokens", "labelled_tokens", "tokens_per_s",
    "peak_memory_bytes", "merge_check",
}  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def aprnb(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aprnb", *map(str, words)],
        capture_output=True, text=True, timeout=300, cwd=cwd, env=ENVIRONMENT,
    )  # fmt: skip


def document(run: subprocess.CompletedProcess[str]) -> Any:
    """Standard output as the one document that it must be."""
    return json.loads(run.stdout)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(pocket_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder in which one run left its artefacts, and the document that it printed."""
    folder = tmp_path_factory.mktemp("tuned")
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    run = aprnb("finetune", pocket_qwen3, "--data", rows, "--rank", "4", "--epochs", "2", "--batch-size", "2",
                "--output", folder / "tuned.apr", "--json")  # fmt: skip
    assert run.returncode == 0, run.stderr
    return folder, document(run)


def test_help_names_every_exit_code() -> None:
    _, codes = aprnb("--help").stdout.split("exit codes: ")
    assert re.findall(r"(?:^|, |\n)(\d+) ", codes) == ["0", "1", "2", "3", "4", "5", "130", "141"]


@pytest.mark.parametrize(
    ("words", "place"), [(["inspect", ""], "FILE"), (["convert", "", "x.apr"], "SOURCE"), (["plan", ""], "FILE")]
)
def test_an_empty_argument_is_named_by_its_place(words: list[str], place: str) -> None:
    run = aprnb(*words)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"UsageProblem: {place} ''; expected a value")


def test_inspect_prints_the_keys_that_scripts_rely_on(pocket_qwen3: Path) -> None:
    found = document(aprnb("inspect", pocket_qwen3, "--json"))
    assert {"file", "architecture", "parameters", "tensors", "tokenizer", "contract", "warnings"} <= set(found)
    file_keys = {"path", "size_bytes", "format", "version", "flags", "header_checksum", "footer_checksum"}
    assert file_keys <= set(found["file"])
    assert found["file"]["size_bytes"] == pocket_qwen3.stat().st_size
    assert found["architecture"]["num_attention_heads"]["value"] == 4
    assert found["architecture"]["num_attention_heads"]["source"]
    assert {"total", "unique"} <= set(found["parameters"])
    assert all({"name", "dtype", "shape", "offset", "size_bytes"} <= set(tensor) for tensor in found["tensors"])
    assert found["contract"] == {"ok": True, "checked": 35, "violations": []}


def test_inspect_of_an_unknown_family_says_why_there_is_no_architecture(foreign: Path) -> None:
    run = aprnb("inspect", foreign / "slice_model.apr", "--json")
    assert "'bert'" in document(run)["architecture_error"]
    assert "architecture" not in document(run)


def test_inspect_verifies_the_footer_only_on_request(pocket_qwen3: Path) -> None:
    assert document(aprnb("inspect", pocket_qwen3, "--json"))["file"]["footer_checksum"] == "not checked"
    assert document(aprnb("inspect", pocket_qwen3, "--json", "--verify"))["file"]["footer_checksum"] == "ok"


def test_inspect_looks_at_values_only_on_request(pocket_qwen3: Path) -> None:
    assert "statistics" not in document(aprnb("inspect", pocket_qwen3, "--json"))
    values = document(aprnb("inspect", pocket_qwen3, "--json", "--stats"))["statistics"]
    assert values["ok"]
    assert len(values["tensors"]) == 35  # 36 entries, one of them a head without bytes


def test_convert_writes_another_format_and_says_what_it_wrote(pocket_qwen3: Path, tmp_path: Path) -> None:
    run = aprnb("convert", pocket_qwen3, tmp_path / "x.gguf", "--dtype", "f16", "--json")
    assert run.returncode == 0, run.stderr
    assert document(run)["format"] == "gguf"
    assert document(run)["tensors"] == 35
    again = aprnb("convert", pocket_qwen3, tmp_path / "x.gguf")
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert aprnb("check", tmp_path / "x.gguf").returncode == 0


def test_convert_rejects_what_a_target_cannot_hold(pocket_qwen3: Path, tmp_path: Path) -> None:
    run = aprnb("convert", pocket_qwen3, tmp_path / "folder", "--dtype", "q4_k")
    assert run.returncode == 2
    assert "safetensors hold floats only" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_convert_shows_what_becomes_what_once_and_before_it_writes(pocket_qwen3: Path, tmp_path: Path) -> None:
    run = aprnb("convert", pocket_qwen3, tmp_path / "x.gguf", "--dtype", "q4_k")
    assert ("What becomes what" in run.stderr, "What becomes what" in run.stdout) == (True, False)
    assert ("warning" in run.stderr, run.stdout.count("Q5_0 in place of Q4_K")) == (False, 1)


def test_convert_shows_progress_on_a_terminal_only(pocket_qwen3: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "aprnb", "convert", str(pocket_qwen3), str(tmp_path / "x.apr"), "--json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60)
    os.close(theirs)
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert json.loads(run.stdout)["format"] == "apr"
    assert "\r100 %" in seen
    assert seen.endswith("\r\x1b[K")
    in_a_log = aprnb("convert", pocket_qwen3, tmp_path / "y.apr").stderr
    assert in_a_log.startswith("Plan of y.apr") and "%" not in in_a_log


def test_check_exits_with_0_for_a_valid_file(pocket_qwen3: Path) -> None:
    run = aprnb("check", pocket_qwen3, "--json")
    assert run.returncode == 0
    assert document(run) == {"ok": True, "checked": 35, "violations": []}


def test_check_exits_with_5_for_an_unknown_family_and_names_it(foreign: Path) -> None:
    run = aprnb("check", foreign / "slice_model.apr", "--json")
    assert run.returncode == 5
    assert "'bert'" in document(run)["error"]["message"]
    assert len(run.stderr.strip().splitlines()) <= 2


def test_a_missing_file_exits_with_3_and_one_or_two_lines(tmp_path: Path) -> None:
    run = aprnb("check", tmp_path / "none.apr")
    assert run.returncode == 3
    assert run.stdout == ""
    assert run.stderr.startswith("FileMissing: ")
    assert len(run.stderr.strip().splitlines()) <= 2


def test_a_text_file_exits_with_4(tmp_path: Path) -> None:
    path = tmp_path / "notes.apr"
    path.write_text("these are notes", encoding="utf-8")
    run = aprnb("inspect", path, "--json")
    assert run.returncode == 4
    assert document(run)["error"]["kind"] == "UnsupportedFormat"
    assert document(run)["error"]["exit_code"] == 4


def test_a_version_1_container_exits_with_4_and_shows_its_header(foreign: Path) -> None:
    run = aprnb("inspect", foreign / "golden_v1.apr")
    assert run.returncode == 4
    assert "magic APRN), version 1" in run.stdout
    assert "LinearRegression" in run.stdout  # model type 1 of its header
    assert document(aprnb("inspect", foreign / "golden_v1.apr", "--json"))["error"]["exit_code"] == 4
    assert aprnb("check", foreign / "golden_v1.apr").returncode == 4


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_strict_exits_with_4_for_false_metadata_about_the_head(real: Callable[[str], Path], command: str) -> None:
    run = aprnb(command, real("pocket-qwen2"), "--strict")
    assert run.returncode == 4
    assert "flag is wrong" in run.stderr
    assert aprnb(command, real("pocket-qwen2")).returncode == 0


@pytest.mark.parametrize("command", ["inspect", "check", "plan", "finetune", "merge", "generate"])
def test_every_command_shows_its_options(command: str) -> None:
    run = aprnb(command, "--help")
    assert run.returncode == 0
    assert run.stdout.startswith(f"usage: aprnb {command}")
    assert "--json" in run.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetune", "x.apr", "--rnk", "8"], "did you mean --rank?"),
        (["finetune", "x.apr", "--lr", "1e-4"], "did you mean --learning-rate?"),
        (["finetune", "x.apr", "--method", "qlorra"], "did you mean qlora?"),
        (["finetune", "x.apr", "--rank", "eight"], "expected a whole number"),
        (["finetune", "x.apr", "--rank"], "--rank"),
        (["inspekt", "x.apr"], "did you mean inspect?"),
        (["check"], "FILE"),
        (["finetune", "--model-size", "8B"], "8B"),
        (["finetune", "x.apr", "--as", "run"], "unknown option --as"),
    ],
)
def test_what_is_not_supported_exits_with_2_and_says_what_to_type(words: list[str], said: str) -> None:
    run = aprnb(*words)
    assert run.returncode == 2
    assert said in run.stderr
    assert len(run.stderr.strip().splitlines()) <= 2


def test_plan_prints_the_keys_that_scripts_rely_on_and_writes_nothing(
    pocket_qwen3: Path, rows: Path, tmp_path: Path
) -> None:
    run = aprnb("plan", pocket_qwen3, "--data", rows, "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = document(run)
    assert set(found) >= PLAN_KEYS
    assert set(found["memory_bytes"]) >= MEMORY_KEYS
    assert {"rows", "rows_without_labels", "tokens", "labelled_tokens"} <= set(found["data"])
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl"}


def test_finetune_with_plan_is_the_plan(pocket_qwen3: Path, rows: Path) -> None:
    words = [pocket_qwen3, "--data", rows, "--json"]
    asked, planned = document(aprnb("finetune", *words, "--plan")), document(aprnb("plan", *words))
    # Assumptions name the memory that is free at the moment.
    compared = PLAN_KEYS - {"assumptions"}
    assert {key: asked[key] for key in compared} == {key: planned[key] for key in compared}


def test_a_recipe_file_gives_options_and_those_on_the_line_win(pocket_qwen3: Path, rows: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('method = "lora"\nrank = 4\nseed = 7\n', encoding="utf-8")
    run = aprnb("plan", pocket_qwen3, "--data", rows, "--recipe", recipe, "--rank", "8", "--json")
    assert run.returncode == 0, run.stderr
    assert (document(run)["recipe"]["rank"], document(run)["recipe"]["seed"]) == (8, 7)


def test_a_missing_recipe_file_exits_with_3(pocket_qwen3: Path, tmp_path: Path) -> None:
    assert aprnb("plan", pocket_qwen3, "--recipe", tmp_path / "none.toml").returncode == 3


def test_finetune_prints_the_keys_that_scripts_rely_on(tuned: tuple[Path, Any]) -> None:
    folder, found = tuned
    assert set(found) >= FINETUNE_KEYS
    assert found["status"] == "finished"
    assert {"first", "last"} <= set(found["loss"])
    assert {"first", "last", "best", "best_step", "written", "written_step"} == set(found["eval_loss"])
    assert "max_abs_difference" in found["merge_check"]
    assert Path(found["output"]) == folder / "tuned.apr"
    assert all(Path(found[name]).exists() for name in ("output", "adapter", "run"))


def test_events_hold_one_object_per_step_and_per_evaluation(tuned: tuple[Path, Any]) -> None:
    folder, found = tuned
    lines = (folder / "tuned.run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    steps, evals = ([row for row in rows if row["event"] == name] for name in ("step", "eval"))
    assert len(steps) == found["steps"]
    named = {"step", "loss", "learning_rate", "grad_norm", "tokens", "labelled_tokens", "tokens_per_s", "elapsed_s"}
    assert all(named <= set(row) for row in steps)
    assert all(set(row) == {"event", "time", "step", "eval_loss"} for row in evals)
    assert evals[0]["step"] == 0
    assert (rows[0]["event"], rows[0]["schema"]) == ("start", 1)
    assert (rows[-1]["event"], rows[-1]["status"]) == ("end", "finished")


def test_what_exists_is_not_overwritten_without_force(pocket_qwen3: Path, tuned: tuple[Path, Any]) -> None:
    folder, _ = tuned
    before = (folder / "tuned.apr").read_bytes()
    run = aprnb("finetune", pocket_qwen3, "--data", folder / "rows.jsonl", "--output", folder / "tuned.apr")
    assert run.returncode == 2
    assert "--force" in run.stderr
    assert (folder / "tuned.apr").read_bytes() == before


def _without_seconds(text: str) -> list[str]:
    """The lines but for those in which a slow machine says how long a phase takes."""
    return [line for line in text.splitlines() if " … " not in line]


def test_merge_writes_a_model_equal_to_the_run_s_own(pocket_qwen3: Path, tuned: tuple[Path, Any]) -> None:
    folder, _ = tuned
    again = folder / "again.apr"
    run = aprnb("merge", pocket_qwen3, folder / "tuned.adapter", "--output", again, "--json")
    assert run.returncode == 0, run.stderr
    assert document(run)["output"] == str(again)
    assert document(run)["changed"] > 0
    before, _, after = run.stderr.partition("Plan of again.apr\n")
    assert _without_seconds(before) == ["importing torch", "reading the adapter"]
    assert "What becomes what" in after
    shown, _, phases = after.rpartition("\n\n")  # the plan ends with an empty line
    assert "writing" not in shown
    assert _without_seconds(phases) == ["writing the model 0/35", "checking the model 0/21"]
    assert aprnb("check", again).returncode == 0


def test_a_run_shows_its_plan_once_and_names_the_file_that_holds_it(
    pocket_qwen3: Path, rows: Path, tmp_path: Path
) -> None:
    words = ["--method", "lora", "--max-steps", "1", "--adapter-only", "--output", "x.apr"]
    run = aprnb("finetune", pocket_qwen3, "--data", rows, *words, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert ("Memory at the peak" in run.stderr, "Memory at the peak" in run.stdout) == (True, False)
    assert "the plan that was shown is in x.run/plan.json" in run.stdout


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_with_130_and_resume_finishes_it(
    pocket_qwen3: Path, rows: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    words = ["finetune", pocket_qwen3, "--data", rows, "--batch-size", "2", "--epochs", "6", "--output", "tuned.apr"]
    command = [sys.executable, "-m", "aprnb", *map(str, words), "--verbose", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step "):
            assert process.poll() is None
        process.send_signal(stop)
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert json.loads(printed)["status"] == "interrupted"
    assert not (tmp_path / "tuned.apr").exists()
    resumed = aprnb(*words, "--resume", "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert document(resumed)["status"] == "finished"
    assert (tmp_path / "tuned.apr").exists()


def test_the_installed_command_is_the_same() -> None:
    command = shutil.which("aprnb", path=str(Path(sys.executable).parent))
    assert command is not None, "the console script is not installed"
    assert subprocess.run([command, "--version"], capture_output=True, text=True).stdout == aprnb("--version").stdout


def test_the_command_line_starts_fast() -> None:
    started = time.perf_counter()
    assert aprnb("--version").returncode == 0
    # An interpreter with argparse and the recipe starts in 0.1 to 0.3 s; torch alone would take more than a second.
    assert time.perf_counter() - started < 1.0
