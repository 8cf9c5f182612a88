"""What is wrong with a target is found before the plan, and before anything else is looked at."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuning.results.test_merge import adapter

import aprnb
from aprnb import cli
from aprnb.errors import AprnbError, FileMissing, OutputError, OutputExists
from aprnb_tests.apr_bytes import with_metadata

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def broken(pocket_qwen3: Path, tmp_path: Path) -> Path:
    """A model whose contract fails, which is an error of a later check."""
    with aprnb.open(pocket_qwen3) as checkpoint:
        metadata = {**checkpoint.metadata, "num_layers": 2, "hf_config": None}
    path = tmp_path / "broken.apr"
    path.write_bytes(with_metadata(pocket_qwen3.read_bytes(), metadata))
    with pytest.raises(AprnbError):
        aprnb.check(path).raise_for_violations()
    return path


def existing(target: Path) -> type[AprnbError]:
    target.write_bytes(b"precious")
    return OutputExists


def without_folder(target: Path) -> type[AprnbError]:
    target.parent.rmdir()
    return FileMissing


def a_folder(target: Path) -> type[AprnbError]:
    target.mkdir()
    (target / "precious.txt").write_text("")
    return OutputExists


STATES = (existing, without_folder, a_folder)


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`read_only(folder)`: nothing can be created in it, as on a read-only disk; the permissions of root allow all."""

    def make(folder: Path) -> None:
        create = tempfile.mkdtemp

        def refuse(*arguments: Any, **named: Any) -> str:
            if Path(named.get("dir") or "") == folder:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return create(*arguments, **named)

        monkeypatch.setattr(tempfile, "mkdtemp", refuse)

    return make


@pytest.mark.parametrize("name", ["x.apr", "x.gguf", "x.safetensors", "x"])
@pytest.mark.parametrize("state", STATES)
def test_a_conversion_looks_at_its_target_first(broken, tmp_path, name, state):
    (tmp_path / "out").mkdir()
    error = state(tmp_path / "out" / name)
    plans: list[Any] = []
    with pytest.raises(error):
        aprnb.convert(broken, tmp_path / "out" / name, on_plan=plans.append)
    assert not plans


@pytest.mark.parametrize("name", ["x.apr", "x.gguf", "x.safetensors", "x"])
def test_a_conversion_into_a_read_only_folder_ends_before_the_plan(broken, tmp_path, read_only, name):
    (tmp_path / "out").mkdir()
    read_only(tmp_path / "out")
    with pytest.raises(OutputError, match=f"{name} could not be written: Read-only.*\n.*a folder that you may change"):
        aprnb.convert(broken, tmp_path / "out" / name)


def test_an_existing_modelfile_ends_a_conversion_before_the_plan(broken, tmp_path):
    (tmp_path / "Modelfile").write_text("precious")
    with pytest.raises(OutputExists, match="Modelfile exists"):
        aprnb.convert(broken, tmp_path / "x.gguf", modelfile=True)


def test_the_target_is_named_without_a_plan_on_the_screen(pocket_qwen3, tmp_path, capsys):
    (tmp_path / "x.gguf").write_bytes(b"precious")
    assert cli.main(["convert", str(pocket_qwen3), str(tmp_path / "x.gguf")]) == 2
    assert capsys.readouterr().err.startswith("OutputExists: ")


@pytest.mark.parametrize("state", STATES)
def test_a_merge_looks_at_its_output_first(broken, tmp_path, state):
    made = adapter(tmp_path / "adapter", (1, 1))
    (tmp_path / "out").mkdir()
    error = state(tmp_path / "out" / "x.apr")
    with pytest.raises(error):
        aprnb.merge(broken, made, tmp_path / "out" / "x.apr")


def test_a_merge_into_a_read_only_folder_ends_first(broken, tmp_path, read_only):
    made = adapter(tmp_path / "adapter", (1, 1))
    (tmp_path / "out").mkdir()
    read_only(tmp_path / "out")
    with pytest.raises(OutputError, match=r"x\.apr could not be written: Read-only"):
        aprnb.merge(broken, made, tmp_path / "out" / "x.apr")


def test_a_merge_does_not_overwrite_a_file_of_its_base(pocket_qwen3, tmp_path):
    base = tmp_path / "base.apr"
    base.write_bytes(pocket_qwen3.read_bytes())
    made = adapter(tmp_path / "adapter", (1, 1))
    with pytest.raises(aprnb.AprnbError, match="would overwrite .*base.apr, which is read"):
        aprnb.merge(base, made, base, force=True)


@pytest.mark.parametrize("state", STATES)
def test_a_run_looks_at_its_outputs_first(broken, tmp_path, state):
    (tmp_path / "out").mkdir()
    error = state(tmp_path / "out" / "x.apr")
    with pytest.raises(error):
        aprnb.finetune(broken, data=[{"instruction": "a", "response": "b"}], output=tmp_path / "out" / "x.apr")


def test_a_run_into_a_read_only_folder_ends_first(broken, tmp_path, read_only):
    (tmp_path / "out").mkdir()
    read_only(tmp_path / "out")
    with pytest.raises(OutputError, match="could not be written: Read-only"):
        aprnb.finetune(broken, data=[{"instruction": "a", "response": "b"}], output=tmp_path / "out" / "x.apr")
