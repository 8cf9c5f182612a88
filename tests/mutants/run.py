"""Changes one line of aprnb at a time and runs the tests that must then fail: `make mutants`.

python tests/mutants/run.py                        the whole table, mutants.toml
python tests/mutants/run.py NAME NAME              these mutants
python tests/mutants/run.py --sample 10 --seed 3   ten of them, always the same for a seed

Each mutant is a copy of the package in a temporary folder with one text replaced. Its tests run there in a process
that starts with the libraries imported (torch, transformers, peft), so that a mutant takes seconds. Before that the
same tests must pass in a copy without a change. Exit status 1 where a mutant survives.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("mutants.toml")
_LIMIT_S = 600
_LIBRARIES = [
    "numpy", "pytest", "torch", "bitsandbytes", "peft", "safetensors.torch", "hypothesis.strategies",
    "transformers.models.qwen3.modeling_qwen3", "transformers.generation.utils",
]  # fmt: skip
RED, GREEN, NO_IMPORT, NO_TEST = "red", "GREEN", "cannot be imported", "a test did not run"
_BY_EXIT_CODE = {0: GREEN, 1: RED, 3: NO_IMPORT}
"""Of pytest, but for 3: 1 means that tests failed; 2, 4 and 5 that one could not be collected, or was not found."""


@dataclass(frozen=True)
class Mutant:
    """`old`, a part of one line of `file` in aprnb/, becomes `new`; `tests` are pytest's node ids in tests/."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_table(path: Path = TABLE) -> dict[str, Mutant]:
    """The mutants by name."""
    table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    return {name: Mutant(name, row["file"], row["old"], row["new"], tuple(row["tests"])) for name, row in table.items()}


def changed(mutant: Mutant, text: str) -> str:
    """`text` of the mutant's file with the change; raises ValueError unless the old part occurs exactly once."""
    found = text.count(mutant.old)
    if found != 1 or "\n" in mutant.old + mutant.new or mutant.old == mutant.new:
        raise ValueError(f"{mutant.name}: {mutant.old!r} occurs {found} times in aprnb/{mutant.file}; expected once")
    return text.replace(mutant.old, mutant.new)


def chosen(table: dict[str, Mutant], names: list[str], sample: int | None, seed: int) -> list[Mutant]:
    """The mutants of these names, or all; of them a sample that follows from the seed alone."""
    unknown = [name for name in names if name not in table]
    if unknown:
        raise SystemExit(f"no mutant {unknown[0]}; known: {', '.join(table)}")
    found = [table[name] for name in names or table]
    return found if sample is None else random.Random(seed).sample(found, min(sample, len(found)))


def run(mutant: Mutant | None, tests: list[str], context: Any) -> tuple[str, float, str]:
    """The verdict, the seconds, and what pytest printed; without a mutant the package is unchanged."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aprnb-mutant-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "aprnb", folder / "aprnb")
        if mutant:
            path = folder / "aprnb" / mutant.file
            path.write_text(changed(mutant, path.read_text("utf-8")), "utf-8")
            os.utime(path, (0, 0))  # no compiled module is of that time, so this one is compiled again
        process = context.Process(target=_run_tests, args=(name, mutant and mutant.file, tests))
        process.start()
        process.join(_LIMIT_S)
        if process.is_alive():
            process.kill()
            process.join()
        verdict = _BY_EXIT_CODE.get(process.exitcode, f"{NO_TEST} (exit code {process.exitcode})")
        printed = (folder / "output.txt").read_text("utf-8", "replace")
    return verdict, time.monotonic() - began_s, printed


def _run_tests(folder: str, file: str | None, tests: list[str]) -> None:
    """In a process of its own: exits with pytest's exit code, or 3 where the changed module cannot be imported."""
    output = os.open(Path(folder) / "output.txt", os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.chdir(folder)  # processes that a test starts with `python -c` import from here
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, str(ROOT / "tests")])
    sys.path[:0] = [folder]
    sys.exit(_exit_code(folder, file, tests))


def _exit_code(folder: str, file: str | None, tests: list[str]) -> int:
    import importlib
    import traceback

    import pytest

    try:
        if file:
            importlib.import_module("aprnb." + file.removesuffix(".py").replace("/", "."))
        assert str(importlib.import_module("aprnb").__file__).startswith(folder)
    except Exception:
        traceback.print_exc()
        return 3
    skipped = _Skipped()
    options = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={folder}/tmp"]
    options += ["--no-header", f"--rootdir={ROOT}", f"-c={ROOT}/pyproject.toml"]
    code = pytest.main([*options, *(f"{ROOT}/tests/{test}" for test in tests)], plugins=[skipped])
    return 4 if code == 0 and skipped.any else int(code)


class _Skipped:
    """Whether a test was skipped, which then shows nothing."""

    any = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.any = self.any or report.skipped


def _context() -> Any:
    """Processes that start with the libraries imported, where the system can do that."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nbval's imports take five times as long as most of the tests
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")  # as conftest.py, which here comes after torch
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    return context


def main(arguments: list[str]) -> int:
    """Runs the mutants and prints a line for each; returns the exit status."""
    parser = argparse.ArgumentParser(description="Change one line at a time; the tests must notice.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    mutants = chosen(read_table(), given.names, given.sample, given.seed)
    context = _context()
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    verdict, seconds, printed = run(None, tests, context)
    if verdict != GREEN:
        print(printed, "\nthe tests do not pass without a mutant", sep="")
        return 2
    print(f"{'unchanged':40} green {seconds:6.1f} s  {len(tests)} tests", flush=True)
    survivors = []
    for mutant in mutants:
        verdict, seconds, printed = run(mutant, list(mutant.tests), context)
        print(f"{mutant.name:40} {verdict:5} {seconds:6.1f} s", flush=True)
        if verdict != RED:
            survivors.append(mutant.name)
            print("    " + "\n    ".join(printed.splitlines()[-12:]), flush=True)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} red", *survivors, sep="\n  not red: ")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
