"""The table of mutants fits the code, and a sample of it is found by its tests; `make mutants` runs all of it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RUN = Path(__file__).with_name("run.py")
SAMPLE, SEED = "10", os.environ.get("APRNB_MUTANTS_SEED", "13")


@pytest.fixture(scope="module")
def runner():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("run_mutants", RUN)
    module = module_from_spec(spec)
    sys.modules["run_mutants"] = module  # dataclasses look there for the module of a class
    spec.loader.exec_module(module)
    yield module
    del sys.modules["run_mutants"]


@cache
def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_mutant_changes_one_place_and_names_tests_that_exist(runner):
    table = runner.read_table()
    assert len(table) >= 60
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in table.values()}) == len(table)
    for mutant in table.values():
        changed = runner.changed(mutant, (TESTS.parent / "aprnb" / mutant.file).read_text("utf-8"))
        ast.parse(changed)
        assert mutant.tests
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert name.partition("[")[0] in functions_of(TESTS / file), f"{mutant.name}: there is no {test}"


def test_a_sample_follows_from_its_seed(runner):
    table = runner.read_table()
    names = [[mutant.name for mutant in runner.chosen(table, [], 10, seed)] for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]
    assert len(set(names[0])) == 10


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RUN), *arguments], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="each mutant would import the libraries anew")
def test_a_sample_of_the_mutants_is_found_by_its_tests():
    """Always the same ten, until APRNB_MUTANTS_SEED is set."""
    done = ran("--sample", SAMPLE, "--seed", SEED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SAMPLE} of {SAMPLE} red" in done.stdout
