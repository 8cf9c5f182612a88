"""`aprnb generate`: the text as it is produced, why it stopped, and what is wrong before anything is loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb import cli
from aprnb_tests.rewrite import with_metadata

ASKED = "What is the opposite of hot?"
ANSWER = "The opposite of hot is cold."
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def generate(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aprnb", "generate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


def document(*words: str | Path) -> dict[str, Any]:
    run = generate(*words, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def without(source: Path, target: Path, *parts: str) -> Path:
    """A copy of the file without the metadata whose keys have one of these parts."""
    kept = {k: v for k, v in aprnb.open(source).metadata.items() if not any(part in k for part in parts)}
    return with_metadata(source, target, kept)


@pytest.mark.parametrize("given", [[ASKED], ["--prompt", ASKED]])
def test_the_document_has_prompt_ids_text_and_why_it_stopped(pocket_qwen3: Path, given: list[str]) -> None:
    found = document(pocket_qwen3, *given)
    assert set(found) == {
        "prompt", "ids", "text", "stop_reason", "stop_id", "stop_text", "prompt_tokens", "seed", "notices",
        "first_token_s", "seconds", "tokens_per_s",
    }  # fmt: skip
    assert found["text"] == ANSWER
    assert found["prompt"].startswith("<|im_start|>user\n")
    assert (found["stop_reason"], found["stop_text"], found["ids"][-1]) == ("eos", "<|im_end|>", found["stop_id"])
    assert 0 < found["first_token_s"] < found["seconds"]


def test_raw_passes_the_prompt_unchanged(pocket_qwen3: Path) -> None:
    found = document(pocket_qwen3, "What is", "--raw", "--max-new-tokens", "3")
    assert found["prompt"] == "What is"
    assert (len(found["ids"]), found["stop_reason"]) == (3, "length")


def test_standard_output_has_the_text_and_standard_error_the_phases_and_why_it_stopped(pocket_qwen3: Path) -> None:
    run = generate(pocket_qwen3, ASKED, "--stop", " cold", "--stop", "warm")
    assert run.stdout == "The opposite of hot is\n"
    *said, why = run.stderr.splitlines()
    phases = [line for line in said if " … " not in line]  # on a slow machine, also seconds
    assert phases == ["reading the checkpoint", "importing torch", "loading 0/35", "reading the prompt, 15 tokens"]
    assert re.fullmatch(r"\d+ tokens, stopped at the text ' cold'; [\d.,]+ tokens/s, the first after .+ s", why)


def test_sampling_options_are_taken_and_a_seed_repeats_the_answer(pocket_qwen3: Path) -> None:
    words = [pocket_qwen3, ASKED, "--temperature", "5", "--top-p", "0.99", "--top-k", "300", "--min-p", "0.0001",
             "--repetition-penalty", "1.1", "--seed", "3", "--max-new-tokens", "9"]  # fmt: skip
    first, again = document(*words), document(*words)
    assert (first["ids"], first["seed"]) == (again["ids"], 3)
    assert first["text"] != ANSWER


@pytest.mark.skipif(os.name == "nt", reason="needs a terminal of POSIX")
def test_a_terminal_shows_what_is_being_loaded_and_then_the_text(pocket_qwen3: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "aprnb", "generate", str(pocket_qwen3), ASKED]
    subprocess.run(command, stdout=theirs, stderr=theirs, timeout=120, env=ENVIRONMENT, check=True)
    os.close(theirs)
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "loading 0/35\r\x1b[K" in seen
    assert seen.index("loading") < seen.index(ANSWER) < seen.index("stopped at the end token <|im_end|>")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere.apr", "hi"], 3, "no file at nowhere.apr"),
        (["no-template.apr", "hi"], 5, "no chat template"),
        (["no-tokenizer.apr", "hi"], 5, "no tokenizer"),
        (["pocket.apr", "cow " * 3000], 2, "the prompt has"),
        (["pocket.apr", "hi", "--top-p", "2"], 2, "--top-p '2'; expected a number from 0 to 1"),
        (["pocket.apr", "hi", "--system", "x", "--raw"], 2, "--system with --raw"),
        (["pocket.apr"], 2, "no prompt"),
        (["pocket.apr", "What", "is", "this?"], 2, "put what contains spaces in quotes"),
        (["pocket.apr", "hi", "--prompt", "ho"], 2, "two prompts"),
    ],
)
def test_what_prevents_an_answer_is_found_before_torch_is_imported(
    real: Callable[[str], Path], pocket_qwen3: Path, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    shutil.copy(pocket_qwen3, tmp_path / "pocket.apr")
    shutil.copy(real("llama-q4k"), tmp_path / "no-template.apr")
    without(pocket_qwen3, tmp_path / "no-tokenizer.apr", "tokenizer", "chat_template")
    script = (
        "import sys\nfrom aprnb.cli import main\ncode = main(['generate', *sys.argv[1:]])\n"
        "print(code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=ENVIRONMENT)
    assert said in run.stderr
    assert run.stdout == f"{code} []\n"


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_text_and_exits_with_130(
    pocket_qwen3: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    endless = without(pocket_qwen3, tmp_path / "endless.apr", "chat_template", "eos_token_id")
    command = [sys.executable, "-m", "aprnb", "generate", str(endless), "hi", "--raw", "--max-new-tokens", "500"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(stop)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert first
    assert rest.endswith("\n")
    assert re.match(r"\d+ tokens?, interrupted", errors.splitlines()[-1])


def test_an_interrupt_before_the_answer_speaks_of_no_files(
    pocket_qwen3: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is raised wherever the program is; here while the file's contract is checked."""

    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aprnb.model.generate_file.check_contract", pressed)
    assert cli.main(["generate", str(pocket_qwen3), ASKED]) == 130
    assert capsys.readouterr().err.endswith("Interrupted: stopped before the answer began\n→ ask again\n")
