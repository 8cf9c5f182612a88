"""What an installation brings: versions that pip must accept, files in the wheel, what works without extras."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import aprnb


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    ("package", "version"),
    [("torch", "2.11.0"), ("torch", "2.13.0"), ("transformers", "5.17.0"), ("transformers", "5.23.0")],
)
def test_the_train_extra_admits(project: dict[str, Any], package: str, version: str) -> None:
    [wanted] = [Requirement(line) for line in project["optional-dependencies"]["train"] if line.startswith(package)]
    assert version in wanted.specifier


@pytest.mark.parametrize(("package", "version"), [("torch", "2.10.0"), ("torch", "2.14.0"), ("transformers", "5.16.0")])
def test_the_train_extra_rejects(project: dict[str, Any], package: str, version: str) -> None:
    [wanted] = [Requirement(line) for line in project["optional-dependencies"]["train"] if line.startswith(package)]
    assert version not in wanted.specifier


def test_inspection_needs_numpy_only(project: dict[str, Any]) -> None:
    assert [Requirement(line).name for line in project["dependencies"]] == ["numpy"]


def test_the_tests_that_windows_runs_import_no_module_that_it_lacks(repository: Path) -> None:
    """One such import at the top of a module ends the whole run there."""
    tests = repository / "tests"
    conftest = (tests / "conftest.py").read_text(encoding="utf-8")
    left_out = ast.literal_eval(re.findall(r"collect_ignore_glob = (\[.*?\])", conftest, re.DOTALL)[0])
    paths = (path for path in tests.rglob("*.py") if not any(path.relative_to(tests).match(glob) for glob in left_out))
    found = {
        f"{path.relative_to(tests)}: {name}"
        for path in paths
        for name in re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if name in {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
    }
    assert not found


def test_dev_holds_the_other_extras(project: dict[str, Any]) -> None:
    [itself] = [Requirement(line) for line in project["optional-dependencies"]["dev"] if line.startswith("aprnb")]
    assert itself.extras == set(project["optional-dependencies"]) - {"dev"}


def test_every_extra_that_an_error_names_exists(project: dict[str, Any], repository: Path) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (repository / "aprnb").rglob("*.py"))
    named = set(re.findall(r'MissingExtra\(\s*"(\w+)"', text))
    assert named <= set(project["optional-dependencies"])


def test_public_names_are_the_same_whatever_was_imported_before() -> None:
    code = "import aprnb, aprnb.tuning.finetune\nassert all(callable(getattr(aprnb, n)) for n in aprnb.__all__ * 2)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_a_missing_extra_is_named_with_its_pip_line(tmp_path: Path, pocket_qwen3: Path) -> None:
    # A finder that denies torch simulates an environment without the extra; the rest of the run is real.
    code = (
        "import sys, aprnb\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from aprnb.cli import main\n"
        f"sys.exit(main(['generate', {str(pocket_qwen3)!r}, '--prompt', 'x']))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert run.returncode == 2
    assert 'pip install "aprnb[train]"' in run.stderr


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(repository),
    ]
    subprocess.run(command, check=True, timeout=300)
    [built] = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_types_and_its_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"aprnb", f"aprnb-{aprnb.__version__}.dist-info"}
    assert "aprnb/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_without_extras_the_wheel_opens_inspects_and_checks(wheel: Path, pocket_qwen3: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=300)
    for words in (["inspect", "--verify"], ["check"]):
        run = subprocess.run([str(python), "-m", "aprnb", *words, str(pocket_qwen3)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    asked = [str(python), "-m", "aprnb", "generate", str(pocket_qwen3), "--prompt", "x"]
    rejected = subprocess.run(asked, capture_output=True, text=True)
    assert (rejected.returncode, 'pip install "aprnb[train]"' in rejected.stderr) == (2, True)
