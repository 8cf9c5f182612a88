"""Folders that `transformers` loads to equal logits, and safetensors files that the package reads."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import aprnb
from aprnb.architecture import FAMILIES
from aprnb_tests import families

LOAD = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, ids = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
found = {"class": type(model).__name__, "logits": logits.tolist()}
if len(sys.argv) > 3:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found["tokens"] = tokenizer(sys.argv[3], add_special_tokens=False).input_ids
    found["chat"] = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    found["eos"] = tokenizer.eos_token
print("FOUND" + json.dumps(found))
"""
IDS = [5, 9, 2, 77, 31, 8, 60, 41, 3, 12]
TEXT = "<|im_start|>user\nWhat is two plus 12? ☕<|im_end|>\n"


def by_transformers(folder, *text: str) -> dict:
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), json.dumps(IDS), *text], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.split("FOUND")[1])


def ours(path) -> np.ndarray:
    import torch

    model, _ = aprnb.load(path, device="cpu", dtype="float32")
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].numpy()


@pytest.mark.parametrize("name", ["pocket-qwen3", "pocket-qwen2-q4k", "gguf-llama-q4_0-preserve"])
def test_transformers_loads_the_folder_to_equal_logits_and_tokens(real, name, tmp_path):
    """Floats, block formats (F16 in the folder: a half's rounding of each weight) and permuted GGUF rows."""
    aprnb.convert(real(name), tmp_path / "hf", dtype="f32" if name != "pocket-qwen3" else None)
    template = ["{{ 'x' }}"] if name.startswith("gguf") else []
    found = by_transformers(tmp_path / "hf", TEXT) if not template else by_transformers(tmp_path / "hf")
    expected = ours(real(name))
    np.testing.assert_allclose(np.array(found["logits"]), expected, atol=2e-5 * np.abs(expected).max())
    if "tokens" in found:
        _, tokenizer = aprnb.load(real(name))
        assert found["tokens"] == tokenizer(TEXT, add_special_tokens=False).input_ids
        assert found["eos"] == tokenizer.eos_token
        assert "<|im_start|>user\nhi<|im_end|>" in found["chat"]


def test_a_folder_comes_back_as_the_same_model(pocket_qwen3, tmp_path):
    aprnb.convert(pocket_qwen3, tmp_path / "hf")
    aprnb.convert(tmp_path / "hf", tmp_path / "again.apr")
    base, again = aprnb.open(pocket_qwen3), aprnb.open(tmp_path / "again.apr")
    assert again.architecture == base.architecture
    for name, entry in base.tensors.items():
        if entry.size_bytes:
            assert again.raw(name) == base.raw(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_folder_keeps_its_forward_pass(family, tmp_path):
    import torch

    from aprnb.conversion.to_huggingface import _config, _Weights, write_json
    from aprnb.conversion.to_huggingface import write_file as write

    model = families.saved(family, tmp_path / "source")
    aprnb.convert(tmp_path / "source", tmp_path / "x.apr")
    checkpoint = aprnb.open(tmp_path / "x.apr")
    report = aprnb.check(checkpoint)
    (tmp_path / "hf").mkdir()  # these tiny models have no tokenizer: weights and config alone
    write(tmp_path / "hf" / "model.safetensors", checkpoint, report, None, False, lambda done, total: None)
    config = _config(report, checkpoint.metadata["hf_config"], "float32", {})
    write_json(tmp_path / "hf" / "config.json", config)
    assert _Weights(checkpoint, report, None).size_bytes
    again = type(model).from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    with torch.no_grad():
        ids = torch.tensor([IDS])
        expected, found = model(ids, use_cache=False).logits, again(ids, use_cache=False).logits
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(expected.abs().max()))


def test_large_models_are_written_in_shards_with_an_index(pocket_qwen3, tmp_path, monkeypatch):
    monkeypatch.setattr("aprnb.conversion.to_huggingface.MAX_SHARD_BYTES", 500_000)
    converted = aprnb.convert(pocket_qwen3, tmp_path / "hf")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 4  # 1.74 MB in parts of at most 0.5
    assert converted.tensors == len(index["weight_map"]) == 35
    assert aprnb.check(tmp_path / "hf").ok


def test_the_safetensors_package_reads_the_file(pocket_qwen3, tmp_path):
    from safetensors.torch import load_file

    aprnb.convert(pocket_qwen3, tmp_path / "x.safetensors", dtype="f32")
    found, base = load_file(tmp_path / "x.safetensors"), aprnb.open(pocket_qwen3)
    assert len(found) == 35
    for name, value in found.items():
        np.testing.assert_array_equal(value.numpy(), base[name])


def test_force_replaces_a_model_folder_and_no_other(pocket_qwen3, tmp_path):
    aprnb.convert(pocket_qwen3, tmp_path / "hf")
    with pytest.raises(aprnb.AprnbError, match="exists"):
        aprnb.convert(pocket_qwen3, tmp_path / "hf")
    aprnb.convert(pocket_qwen3, tmp_path / "hf", force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(aprnb.AprnbError, match="no model folder"):
        aprnb.convert(pocket_qwen3, tmp_path / "mine", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "mine"]
