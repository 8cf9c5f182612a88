"""The documents agree with the code: links resolve, commands parse, every error is explained, examples run."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import aprnb
from aprnb import errors
from aprnb.architecture import Architecture, ContractReport
from aprnb.arguments import parse
from aprnb.cli import CLOSED_PIPE
from aprnb.commands import COMMANDS
from aprnb.conversion import Converted
from aprnb.inspection import Report, Statistics
from aprnb.model import Generation
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.results.merge import Merged

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.png"))
PUBLIC = [name for name in aprnb.__all__ if not name.endswith("_ipython_extension")]
ERRORS = [error for _, error in inspect.getmembers(errors, inspect.isclass) if errors.AprnbError in error.__mro__[1:]]
RESULTS = [Architecture, Converted, ContractReport, Generation, Merged, Plan, Report, Statistics]
_WIDEST_CODE = 90


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
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == exit_codes() | {0, CLOSED_PIPE}


def test_every_command_in_the_readme_parses() -> None:
    lines = re.findall(r"^    aprnb (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [shlex.split(line) for line in lines]
    assert {words[0] for words in commands} == set(COMMANDS)
    for words in commands:
        assert parse(words[0], words[1:], prog=f"aprnb {words[0]}", surface="shell").keys() & {
            "checkpoint",
            "run_folder",
            "run_folders",
        }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_cell_or_command_shows_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    cells = re.findall(r"^%%?apr_(\w+) (.+)$", text, re.MULTILINE)
    commands = re.findall(r"^(?:\$|- run:) aprnb (\w+) (.+)$", text, re.MULTILINE)
    for surface, lines in (("notebook", cells), ("shell", commands)):
        for command, rest in lines:
            parsed = parse(command, shlex.split(rest), prog=command, surface=surface)
            assert (
                parsed.get("checkpoint")
                or parsed.get("source")
                or parsed.get("run_folder")
                or parsed.get("run_folders")
            )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_troubleshooting_explains_every_error_with_its_exit_code(error: type[errors.AprnbError]) -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert f"## {error.__name__}\n\n*Exit code {error.exit_code}.*" in text


def test_code_in_the_readme_is_narrow_enough_for_github() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    .+$", text, re.MULTILINE)
    assert not [line for line in lines if len(line) > _WIDEST_CODE]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_every_picture_is_small_and_shown_on_a_page(picture: Path) -> None:
    assert picture.stat().st_size <= 150_000
    assert any(f"pictures/{picture.name}" in page.read_text(encoding="utf-8") for page in PAGES)


def test_the_api_page_lists_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(" ".join(re.findall(r"^```\{public\} (.+)$", text, re.MULTILINE)).split())
    assert shown >= set(PUBLIC)


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(getattr(aprnb, name))])
def test_a_public_function_documents_its_arguments_result_errors_and_an_example(name: str) -> None:
    function = getattr(aprnb, name)
    arguments, *rest = re.split(r"^(?:Returns|Raises|Example):$", inspect.getdoc(function), flags=re.MULTILINE)
    assert len(rest) == 3
    # `plan` refers to `finetune` for the arguments that both have.
    described = f"{arguments}{aprnb.finetune.__doc__}" if name == "plan" else arguments
    assert set(inspect.signature(function).parameters) <= set(re.findall(r"^ +(\w+): ", described, re.MULTILINE))


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.__name__)
def test_a_result_documents_each_of_its_fields(result: type) -> None:
    listed = re.findall(r"^    (\w+): ", inspect.getdoc(result).partition("Attributes:")[2], re.MULTILINE)
    assert listed == [field.name for field in dataclasses.fields(result)]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_in_a_public_docstring_run(
    name: str, pocket_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with `pocket-qwen3.apr` and its rows as `rows.jsonl`."""
    shutil.copy(pocket_qwen3, tmp_path)
    shutil.copy(ROOT / "notebooks" / "ask-the-cow.jsonl", tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    found = getattr(aprnb, name)
    for example in doctest.DocTestFinder().find(found, name, module=False, globs={"aprnb": aprnb}):
        assert runner.run(example).failed == 0, f"{example.name}: see the output above"


def test_the_reference_shows_every_command() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^```\{options\} (\w+)$", text, re.MULTILINE))
    # `plan` takes the options of `finetune`, under one heading.
    assert shown | {"plan"} == set(COMMANDS)


def test_every_make_target_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`?make (\w+)`?", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def test_ci_runs_every_python_that_the_package_names() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    [matrix] = re.findall(r"^ +python: \[(.+)\]$", workflow, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert re.findall(r"3\.\d+", matrix) == named
    assert "- run: .ci/run" in workflow


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
