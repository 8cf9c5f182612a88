"""What the documents say is so: links lead somewhere, commands parse, exit codes are those of the errors."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aprnb import errors
from aprnb.arguments import parse
from aprnb.commands import SUMMARIES

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def exit_codes() -> set[int]:
    found, waiting = set(), [errors.AprnbError]
    while waiting:
        error = waiting.pop()
        found.add(error.exit_code)
        waiting += error.__subclasses__()
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", ["README.md", "docs/commands.md"])
def test_the_table_of_exit_codes_is_that_of_the_errors(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == exit_codes() | {0}


def test_every_command_in_the_readme_parses() -> None:
    lines = re.findall(r"^    aprnb (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [shlex.split(line) for line in lines]
    assert {words[0] for words in commands} == set(SUMMARIES)
    for words in commands:
        assert parse(words[0], words[1:], prog=f"aprnb {words[0]}", surface="shell")["checkpoint"]


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_every_option_that_a_cell_shows_exists(page: str) -> None:
    lines = re.findall(r"^%%?apr_(\w+) (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert lines
    for command, rest in lines:
        assert parse(command, shlex.split(rest), prog=f"%apr_{command}", surface="notebook")["checkpoint"]


def test_the_reference_shows_every_command() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^```\{options\} (\w+)$", text, re.MULTILINE))
    # `plan` takes the options of `finetune`, under one heading.
    assert shown | {"plan"} == set(SUMMARIES)


def test_every_make_target_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`?make (\w+)`?", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    build = [*command, str(ROOT / "docs"), str(tmp_path)]
    run = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "--learning-rate" in (tmp_path / "commands.html").read_text(encoding="utf-8")


def test_the_page_of_benchmarks_shows_the_stored_results() -> None:
    command = [sys.executable, "-c", "import table; print(table.MARK + table.table())"]
    found = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True).stdout
    mark, _, rows = found.rstrip("\n").partition("\n")
    shown = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split(mark)[1]
    assert shown.strip() == rows.strip()
