"""The command of the story, as typed: in a shell and pasted as a cell, against the 8B-shaped file."""

import json
import subprocess
import sys

import pytest

from aprnb_tests import story

ROWS = '{"instruction": "Say hello.", "response": "Hello!"}\n{"instruction": "Say bye.", "response": "Bye!"}\n' * 4
OPTIONS = (
    "--method qlora --quantize-nf4 --rank 16 --data data/instruct-corpus.jsonl --task instruct --model-size 8B "
    "--output checkpoints/qwen_qwen3-8b-finetuned.apr --verbose"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("story")
    (folder / "checkpoints").mkdir()
    (folder / "data").mkdir()
    (folder / "data" / "instruct-corpus.jsonl").write_text(ROWS)
    story.write(folder / "checkpoints" / "qwen_qwen3-8b.apr")
    return folder


def expect_the_real_model(plan: dict) -> None:
    fields = {name: field["value"] for name, field in plan["architecture"].items()}
    assert (fields["num_hidden_layers"], fields["num_attention_heads"], fields["num_key_value_heads"]) == (36, 32, 8)
    assert (fields["head_dim"], fields["vocab_size"]) == (128, 151936)
    assert plan["parameters"]["total"] == 8_190_735_360
    # rank 16 on seven matrices of 36 layers: 16 · (in + out) each
    per_layer = sum(16 * (i + o) for i, o in ((4096, 4096),) * 2 + ((4096, 1024),) * 2 + ((4096, 12288),) * 3)
    assert plan["parameters"]["trainable"] == 36 * per_layer
    assert plan["method"] == "qlora"


def command_line(folder, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "aprnb", *words, "--json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command_line_plans_the_real_model(folder):
    done = command_line(folder, "plan", "checkpoints/qwen_qwen3-8b.apr", *OPTIONS.split())
    assert done.returncode == 0, done.stderr
    expect_the_real_model(json.loads(done.stdout))


def test_the_pasted_cell_plans_the_real_model(shell, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("APRNB_STATIC", "1")
    pasted = "checkpoints/qwen_qwen3-8b.apr \\\n    --plan --as plan " + OPTIONS.replace(" --", " \\\n    --")
    line, _, body = pasted.partition("\n")
    shell.run_cell_magic("apr_finetune", line, body)
    expect_the_real_model(shell.user_ns["plan"].to_json())


def test_another_size_is_an_error_that_shows_both_counts(folder):
    done = command_line(folder, "plan", "checkpoints/qwen_qwen3-8b.apr", *OPTIONS.replace("8B", "0.6B").split())
    assert done.returncode == 5
    assert "means 600,000,000" in done.stderr
    assert "has 8,190,735,360" in done.stderr


def test_a_size_without_a_file_says_what_to_do(folder):
    done = command_line(folder, "plan", "--model-size", "8B", "--data", "data/instruct-corpus.jsonl")
    assert done.returncode == 2
    assert "give the path of a checkpoint" in done.stderr


@pytest.mark.parametrize(
    "line", ["%%apr_finetune --model-size 8B", "%%apr_finetune checkpoints/qwen_qwen3-8b.apr --rnak 2"]
)
def test_a_cell_without_a_body_fails_like_the_line(shell, folder, monkeypatch, line):
    monkeypatch.chdir(folder)
    outcome = shell.run_cell(line)
    assert type(outcome.error_in_exec).__name__ == "UsageProblem"


def test_nothing_was_written(folder):
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["qwen_qwen3-8b.apr"]
