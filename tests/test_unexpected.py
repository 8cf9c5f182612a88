"""The command line when something unexpected happens: the reader is gone, the disk is full, a bug raises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aprnb.commands import COMMANDS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")

APRNB = [sys.executable, "-m", "aprnb"]
WORDS = {
    "inspect": ["x.apr"],
    "check": ["x.apr"],
    "plan": ["x.apr"],
    "finetune": ["x.apr"],
    "convert": ["x.apr", "y.apr"],
    "watch": ["x.run"],
    "runs": ["x.run"],
    "merge": ["x.apr", "x.adapter", "-o", "y.apr"],
    "generate": ["x.apr", "--prompt", "Say hello."],
}
BROKEN = """
import dataclasses, sys
from aprnb import cli, commands

def broken(given, view):
    print("printed by a library")
    RAISE

commands.COMMANDS[sys.argv[1]] = dataclasses.replace(commands.COMMANDS[sys.argv[1]], run=broken)
sys.exit(cli.main())
"""
DIVISION = 'raise ZeroDivisionError("division by zero\\nand a second line")'


def broken(command: str, *flags: str, bug: str = DIVISION) -> subprocess.CompletedProcess[str]:
    """`command` with a bug in it, as a real process."""
    words = [sys.executable, "-c", BROKEN.replace("RAISE", bug), command, *WORDS[command], *flags]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def with_closed_output(*words: object, also_errors: bool = False) -> subprocess.CompletedProcess[str]:
    """A command whose standard output is a closed pipe."""
    ours, theirs = os.pipe()
    os.close(ours)
    errors = theirs if also_errors else subprocess.PIPE
    try:
        return subprocess.run([*APRNB, *map(str, words)], stdout=theirs, stderr=errors, text=True, timeout=60)
    finally:
        os.close(theirs)


def test_the_cases_are_all_commands() -> None:
    assert set(WORDS) == set(COMMANDS)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_closed_pipe_ends_a_command_silently_with_the_code_of_sigpipe(
    pocket_qwen3: Path, flags: tuple[str, ...]
) -> None:
    run = with_closed_output("inspect", pocket_qwen3, *flags)
    assert (run.returncode, run.stderr) == (128 + 13, "")


def test_a_closed_pipe_is_silent_also_for_help_and_for_errors(tmp_path: Path) -> None:
    assert with_closed_output("--help").returncode == 141
    assert with_closed_output("finetune", "--help").stderr == ""
    assert with_closed_output("inspect", tmp_path / "none.apr", also_errors=True).returncode == 141


def test_head_shows_its_line_and_nothing_else(pocket_qwen3: Path) -> None:
    script = 'set -o pipefail; "$@" | head -1'
    command = ["bash", "-c", script, "bash", *APRNB, "inspect", str(pocket_qwen3)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # 0 where the whole text fitted into the pipe before head ended.
    assert run.returncode in (0, 141)
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_stream_that_was_closed_before_changes_no_exit_code(
    pocket_qwen3: Path, closed: str, flags: tuple[str, ...]
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f'"$@" {closed}', "bash", *APRNB, *words, *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    good = run("inspect", str(pocket_qwen3))
    assert (good.returncode, good.stderr) == (0, "")
    assert ("pocket-qwen3" in good.stdout) is not closed.startswith((">", "<"))
    missing = run("check", "none.apr")
    assert missing.returncode == 3
    assert ("FileMissing" in missing.stderr) is (closed == ">&-")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_the_code_1(pocket_qwen3: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*APRNB, "inspect", str(pocket_qwen3), "--json"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert run.returncode == 1
    assert run.stderr == "OutputError: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("command", WORDS)
def test_an_unexpected_error_is_one_json_document_and_exit_code_1(command: str) -> None:
    run = broken(command, "--json")
    assert run.returncode == 1
    error = json.loads(run.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("InternalError", 1)
    assert error["found"] == "ZeroDivisionError: division by zero"
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("command", WORDS)
def test_an_unexpected_error_is_two_lines_that_say_how_to_see_the_traceback(command: str) -> None:
    run = broken(command)
    assert (run.returncode, run.stdout) == (1, "")
    first, second = run.stderr.removeprefix("printed by a library\n").splitlines()
    assert first == "InternalError: ZeroDivisionError: division by zero (<string>, line 7)"
    assert "bug in aprnb" in second
    assert "--verbose" in second


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize("flags", [("--verbose",), ("--verbose", "--json")])
def test_verbose_shows_the_traceback_on_standard_error_only(command: str, flags: tuple[str, ...]) -> None:
    run = broken(command, *flags)
    assert run.returncode == 1
    assert "Traceback (most recent call last):" in run.stderr
    assert "Traceback" not in run.stdout
    assert bool(run.stdout) is ("--json" in flags)


@pytest.mark.parametrize("bug", ["sys.exit(3)", "raise type('PanicException', (BaseException,), {})('a panic')"])
def test_a_library_that_raises_another_base_exception_is_an_unexpected_error(bug: str) -> None:
    run = broken("inspect", "--json", bug=bug)
    assert run.returncode == 1
    assert json.loads(run.stdout)["error"]["kind"] == "InternalError"


def test_verbose_in_a_recipe_file_shows_the_traceback_and_the_message_does_not_name_the_option(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("verbose = true\n", encoding="utf-8")
    for flags in (["--recipe", str(recipe)], ["--verbose"]):
        run = broken("plan", *flags)
        assert "Traceback (most recent call last):" in run.stderr
        assert "--verbose" not in run.stderr
