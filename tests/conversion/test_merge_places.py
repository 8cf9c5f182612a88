"""What is wrong with the names that a merge is given is said before torch is imported; an adapter of zeros is named."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters.test_targets import QUERIES, written
from safetensors.numpy import load_file, save_file

import aprnb
from aprnb.cli import main
from aprnb.errors import AprnbError, FileMissing, GateError, OutputError, UsageProblem

WITHOUT_TORCH = """
import sys
from aprnb.cli import main
code = main(["merge", *sys.argv[1:]])
assert "torch" not in sys.modules, "torch was imported"
sys.exit(code)
"""


@pytest.fixture
def adapter(pocket_qwen3: Path, tmp_path: Path) -> Path:
    return written(pocket_qwen3, tmp_path / "adapter", QUERIES, target_modules=["q_proj"])


def test_the_names_are_checked_before_torch_is_imported(pocket_qwen3, adapter, tmp_path):
    words = [adapter, pocket_qwen3, "--output", tmp_path / "out.apr"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "base and adapter are swapped" in done.stderr
    assert f"`aprnb merge {pocket_qwen3} {adapter} --output {tmp_path / 'out.apr'}`" in done.stderr


def test_every_wrong_name_is_told_by_the_function_too(pocket_qwen3, adapter, tmp_path):
    (tmp_path / "taken.apr").touch()
    cases: list[tuple[tuple[Path, Path, str], type[AprnbError], str]] = [
        ((adapter, adapter, "out.apr"), UsageProblem, "the base .* is an adapter"),
        ((tmp_path / "nowhere", adapter, "out.apr"), FileMissing, "no file at .*nowhere"),
        ((pocket_qwen3, tmp_path / "nowhere", "out.apr"), FileMissing, "no adapter folder at .*nowhere"),
        ((pocket_qwen3, pocket_qwen3, "out.apr"), FileMissing, "no adapter folder at .*pocket-qwen3.apr"),
        ((pocket_qwen3, adapter, "out.gguf"), UsageProblem, "expected a name that ends in .apr"),
        ((pocket_qwen3, adapter, "missing/out.apr"), FileMissing, "no folder .*missing"),
        ((pocket_qwen3, adapter, "taken.apr"), aprnb.errors.OutputExists, "taken.apr exists"),
    ]
    for (base, given, output), kind, said in cases:
        with pytest.raises(kind, match=said):
            aprnb.merge(base, given, tmp_path / output)


def zeros(adapter: Path, part: str) -> str:
    """The adapter without an effect: one of its matrices, or its alpha, is 0."""
    if part == "alpha":
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 0}))
        return "lora_alpha is 0"
    tensors = load_file(adapter / "adapter_model.safetensors")
    changed = {name: np.zeros_like(one) if f"lora_{part}" in name else one for name, one in tensors.items()}
    save_file(changed, adapter / "adapter_model.safetensors")
    return "every product of lora_A and lora_B is 0"


@pytest.mark.parametrize("part", ["A", "B", "alpha"])
def test_an_adapter_without_an_effect_is_named(pocket_qwen3, adapter, tmp_path, part):
    why = zeros(adapter, part)
    with pytest.raises(GateError, match=rf"changed no tensor: the adapter is zero \({why}\)"):
        aprnb.merge(pocket_qwen3, adapter, tmp_path / "out.apr")
    assert not (tmp_path / "out.apr").exists()
    converted = aprnb.convert(adapter, tmp_path / "x.gguf", base=pocket_qwen3)
    assert f"the adapter is zero: it changes nothing ({why})" in converted.warnings


def test_an_adapter_with_one_layer_that_changes_something_is_not_zero(pocket_qwen3, adapter, tmp_path):
    tensors = load_file(adapter / "adapter_model.safetensors")
    first = next(name for name in tensors if "lora_B" in name)
    zero = {name: np.zeros_like(one) for name, one in tensors.items() if "lora_B" in name and name != first}
    save_file({**tensors, **zero}, adapter / "adapter_model.safetensors")
    assert aprnb.merge(pocket_qwen3, adapter, tmp_path / "out.apr").changed == 1


def test_an_adapter_to_convert_that_is_not_there_is_missing(pocket_qwen3, tmp_path):
    with pytest.raises(FileMissing, match="no adapter at nothere") as caught:
        aprnb.convert("nothere", tmp_path / "x.gguf", base=pocket_qwen3)
    assert caught.value.exit_code == 3


def test_a_number_as_text_is_shown_in_quotes(pocket_qwen3, adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": "8"}))
    with pytest.raises(UsageProblem, match="has lora_alpha '8'; expected a finite number"):
        aprnb.merge(pocket_qwen3, adapter, tmp_path / "out.apr")


def test_the_plan_of_a_merge_states_the_bytes_that_are_written(pocket_qwen3, adapter, tmp_path):
    seen: list[tuple[Any, list[Path]]] = []
    merged = aprnb.merge(
        pocket_qwen3, adapter, tmp_path / "out.apr", output_dtype="f16",
        on_plan=lambda plan: seen.append((plan, list(tmp_path.glob("out.apr")))),
    )  # fmt: skip
    ((plan, there),) = seen
    assert there == []
    with aprnb.open(merged.path) as written, aprnb.open(pocket_qwen3) as base:
        assert plan.size_bytes == sum(entry.size_bytes for entry in written.tensors.values())
        assert plan.source_bytes == sum(entry.size_bytes for entry in base.tensors.values())
        matrices = sum(entry.dtype.name == "F16" for entry in written.tensors.values())
    assert sum(row.tensors for row in plan.rows if row.written == "F16") == matrices > 10


def test_the_command_shows_the_plan_before_the_result(pocket_qwen3, adapter, tmp_path, capsys):
    assert main(["merge", str(pocket_qwen3), str(adapter), "--output", str(tmp_path / "out.apr")]) == 0
    said = capsys.readouterr()
    assert "Plan of out.apr" in said.err
    assert "What becomes what" in said.err
    assert said.err.index("Plan of out.apr") < said.err.index("writing the model")
    assert said.out.startswith(f"{tmp_path / 'out.apr'}: ")


def test_a_merge_that_does_not_fit_on_the_disk_is_an_error_before_it_is_written(
    pocket_qwen3, adapter, tmp_path, monkeypatch
):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutputError, match=r"out.apr needs .* of disk space, and .*1,000 bytes\) are free"):
        aprnb.merge(pocket_qwen3, adapter, tmp_path / "out.apr")


def test_a_merge_and_a_conversion_close_the_files_that_they_open(pocket_qwen3, adapter, tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        aprnb.merge(pocket_qwen3, adapter, tmp_path / "out.apr")
        for name in ("x.apr", "x.gguf", "x.safetensors", "x"):
            aprnb.convert(tmp_path / "out.apr", tmp_path / name)
        aprnb.load(tmp_path / "x.apr", device="cpu")
        gc.collect()
    assert [str(one.message) for one in told if one.category is ResourceWarning] == []
