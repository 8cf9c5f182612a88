"""Adapters in place of a model: the report says what they are, and every way out is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import aprnb
from aprnb import cli
from aprnb.errors import UnsupportedFormat

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path, pocket_qwen3: Path) -> Path:
    """Rank 3, alpha 6, on the first query projection of the pocket model."""
    with aprnb.open(pocket_qwen3) as checkpoint:
        rows, columns = checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].shape
    folder = tmp_path / "tuned.adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "base_model_name_or_path": "Qwen/\x1b[31mQwen3"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    matrices = {"A": np.ones((3, columns), np.float32), "B": np.ones((rows, 3), np.float32)}
    save_file({f"{MODULE}.lora_{part}.weight": one for part, one in matrices.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


def test_a_folder_is_reported_with_rank_alpha_and_tensors(adapter, capsys):
    report = aprnb.inspect(adapter)
    assert report.ok
    assert str(report).startswith("tuned.adapter  ✓")
    assert "→ merge it into its base: `aprnb merge BASE tuned.adapter --output X.apr`" in str(report)
    assert "is a PEFT adapter (LoRA, rank 3, alpha 6, 2 tensors), not a model" in str(report)
    assert "\x1b" not in str(report)
    assert cli.main(["inspect", str(adapter), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    header = found["header"]
    assert found["file"]["size_bytes"] == sum(file.stat().st_size for file in adapter.iterdir())
    assert (header["kind"], header["rank"], header["alpha"], header["modules"]) == ("LoRA", "3", "6", "q_proj")


def test_a_gguf_adapter_is_reported_and_rejected_by_name(adapter, pocket_qwen3, tmp_path, capsys):
    path = tmp_path / "adapter.gguf"
    aprnb.convert(adapter, path, base=pocket_qwen3)
    said = r"is a LoRA adapter for qwen3 \(rank 3, alpha 6.0, 2 tensors\), not a model"
    for rejected in (aprnb.open, aprnb.check, lambda path: aprnb.convert(path, tmp_path / "x.apr")):
        with pytest.raises(UnsupportedFormat, match=said):
            rejected(path)
    assert str(aprnb.inspect(path)).startswith("adapter.gguf  ✓")
    assert cli.main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    header = found["header"]
    assert "use it with its base in llama.cpp" in found["info"]
    assert header == {"kind": "LoRA", "architecture": "qwen3", "rank": "3", "alpha": "6.0", "tensors": "2"}


def test_a_broken_adapter_is_named_by_the_same_reader(adapter):
    (adapter / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(aprnb.errors.UsageProblem, match="describes a 'IA3' adapter; expected peft_type LORA"):
        aprnb.inspect(adapter)


@pytest.mark.parametrize("use", [aprnb.open, aprnb.check, aprnb.load])
def test_an_adapter_in_place_of_a_model_is_named(adapter, use):
    with pytest.raises(UnsupportedFormat, match=r"is a PEFT adapter, not a model.*\n→ merge it into its base"):
        use(adapter)
