"""The Binder folder: it installs in 2 GB, and the badge opens the tutorial."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from packaging.requirements import Requirement


@pytest.fixture
def binder(repository: Path) -> Path:
    return repository / "binder"


def requirement_lines(binder: Path) -> list[str]:
    lines = (binder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_python_is_pinned_to_one_that_the_package_takes(binder: Path, repository: Path) -> None:
    pinned = re.fullmatch(r"python-(3\.\d+)\n", (binder / "runtime.txt").read_text(encoding="utf-8"))
    assert pinned is not None
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert pinned[1] in Requirement(f"python{project['requires-python']}").specifier


def test_torch_is_the_cpu_build_within_the_package_s_range(binder: Path, repository: Path) -> None:
    lines = requirement_lines(binder)
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in lines
    [pinned] = [line for line in lines if line.startswith("torch")]
    version = re.fullmatch(r"torch==(\d+\.\d+\.\d+)\+cpu", pinned)
    assert version is not None, f"{pinned}: only the exact CPU build never brings CUDA"
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [wanted] = [Requirement(line) for line in project["optional-dependencies"]["train"] if line.startswith("torch>")]
    assert version[1] in wanted.specifier


def test_no_line_installs_cuda(binder: Path) -> None:
    assert not [line for line in requirement_lines(binder) if re.search(r"nvidia|cuda|triton|whl/cu\d", line)]


def test_the_package_is_installed_from_the_checkout_in_a_form_that_the_builder_knows(binder: Path) -> None:
    # repo2docker copies the checkout before pip only for lines that start with a dot.
    assert ".[notebook,train]" in requirement_lines(binder)


def test_post_build_is_executable_stops_at_errors_and_is_valid_bash(binder: Path) -> None:
    script = binder / "postBuild"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_every_file_that_post_build_names_exists(binder: Path, repository: Path) -> None:
    named = re.findall(r"(?:binder|notebooks)/[\w./-]+", (binder / "postBuild").read_text(encoding="utf-8"))
    assert named
    assert all((repository / path).is_file() for path in named), named


def test_the_lab_settings_are_json_and_name_settings_that_jupyterlab_has(binder: Path) -> None:
    jupyterlab = pytest.importorskip("jupyterlab.commands")
    schemas = Path(jupyterlab.get_app_dir()) / "schemas"
    settings = json.loads((binder / "labconfig" / "default_setting_overrides.json").read_text(encoding="utf-8"))
    for plugin, values in settings.items():
        package, name = plugin.split(":")
        schema = json.loads((schemas / package / f"{name}.json").read_text(encoding="utf-8"))
        assert set(values) <= set(schema["properties"])


def test_the_badge_opens_a_notebook_that_exists(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    [address] = re.findall(r"\]\((https://mybinder\.org/v2/[^)]+)\)", readme)
    [target] = parse_qs(urlparse(address).query)["urlpath"]
    assert target.startswith("lab/tree/")
    assert (repository / target.removeprefix("lab/tree/")).is_file()
