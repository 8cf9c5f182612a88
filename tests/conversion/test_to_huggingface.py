"""Folders that `transformers` loads to equal logits, and safetensors files that the package reads."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import aprnb
from aprnb.architecture import FAMILIES
from aprnb.errors import UsageProblem
from aprnb_tests import families
from aprnb_tests.safetensors_bytes import folder_of

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
    """Floats unchanged, block formats decoded to float32, and permuted GGUF rows."""
    aprnb.convert(real(name), tmp_path / "hf", dtype="f32" if name != "pocket-qwen3" else None)
    found = by_transformers(tmp_path / "hf", TEXT)
    expected = ours(real(name))
    np.testing.assert_allclose(np.array(found["logits"]), expected, atol=2e-5 * np.abs(expected).max())
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

    model = families.saved(family, tmp_path / "source")
    aprnb.convert(tmp_path / "source", tmp_path / "x.apr")
    written = aprnb.convert(tmp_path / "x.apr", tmp_path / "hf")
    assert "the source has no tokenizer: none is written" in written.warnings
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
    found, expected = by_transformers(tmp_path / "hf"), ours(pocket_qwen3)
    np.testing.assert_allclose(np.array(found["logits"]), expected, atol=2e-5 * np.abs(expected).max())


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
    (tmp_path / "hf" / "notes.txt").write_text("mine")
    with pytest.raises(aprnb.AprnbError, match="holds notes.txt"):
        aprnb.convert(pocket_qwen3, tmp_path / "hf", force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(aprnb.AprnbError, match="not a model folder"):
        aprnb.convert(pocket_qwen3, tmp_path / "mine", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "mine"]


def test_a_folder_is_not_replaced_by_what_is_read_from_it(pocket_qwen3, tmp_path):
    aprnb.convert(pocket_qwen3, tmp_path / "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    before = weights.read_bytes()
    for source, target in ((weights, tmp_path / "hf"), (tmp_path / "hf", weights)):
        with pytest.raises(aprnb.AprnbError, match="which is read"):
            aprnb.convert(source, target, force=True)
    assert weights.read_bytes() == before


def test_what_the_config_says_stays_and_what_is_settled_here_wins(pocket_qwen3, sources, tmp_path):
    """Ids that the tokenizer does not name, keys without effect; not: old spellings that disagree, code to fetch."""
    config = json.loads((sources / "qwen3" / "config.json").read_text())
    odd = {"bos_token_id": 824, "eos_token_id": [826, 824], "auto_map": {"AutoModel": "else/where--code.Model"}}
    aprnb.convert(pocket_qwen3, tmp_path / "hf", config={**config, **odd}, overrides={"rope_theta": "5000"})
    source = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "source")
    (source / "config.json").write_text(json.dumps({**config, **odd, "torch_dtype": "float32", "note": "kept"}))
    aprnb.convert(source, tmp_path / "x.apr")
    aprnb.convert(tmp_path / "x.apr", tmp_path / "again", dtype="f16", overrides={"rope_theta": "5000"})
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (written["bos_token_id"], written["eos_token_id"], written["note"]) == (824, [826, 824], "kept")
    assert written["rope_parameters"]["rope_theta"] == written["rope_theta"] == 5000
    assert written["dtype"] == "float16"
    assert not {"auto_map", "torch_dtype"} & set(written)


def test_values_that_are_not_finite_are_an_error_that_names_the_tensor(pocket_qwen3, tmp_path):
    """The first BF16 of one matrix becomes NaN, 0x7FC0; values that are copied unchanged are not checked."""
    with aprnb.open(pocket_qwen3) as base:
        name = "model.layers.1.mlp.down_proj.weight"  # of 384 columns: no K-blocks
        file, entry = base.contents.files[0], base.tensors[name]
        at = file.data_start + entry.offset
    damaged = bytearray(pocket_qwen3.read_bytes())
    damaged[at : at + 2] = b"\xc0\x7f"
    (tmp_path / "damaged.apr").write_bytes(damaged)
    wanted = {"x.apr": "q8", "y.apr": "f16", "x.safetensors": "f32", "x.gguf": "f16", "y.gguf": "q8", "hf": "f16"}
    for target, dtype in wanted.items():
        with pytest.raises(aprnb.AprnbError, match=f"{name} holds NaN"):
            aprnb.convert(tmp_path / "damaged.apr", tmp_path / target, dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.apr"]


@pytest.mark.parametrize("target", ["a\0b.apr", "a" * 300, "taken.apr"])
def test_a_target_that_cannot_exist_is_an_aprnb_error(pocket_qwen3, tmp_path, target):
    (tmp_path / "taken.apr").mkdir()
    with pytest.raises(aprnb.AprnbError, match="not a valid target name|is a folder; it is not replaced"):
        aprnb.convert(pocket_qwen3, tmp_path / target, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.apr"]


def test_a_single_file_reports_what_is_lost_and_how_to_read_it_again(pocket_qwen3, tmp_path):
    converted = aprnb.convert(pocket_qwen3, tmp_path / "x.safetensors")
    assert any("only the weights are written" in warning for warning in converted.warnings)
    with pytest.raises(aprnb.AprnbError, match="--config config.json"):
        aprnb.check(tmp_path / "x.safetensors")
    folder = aprnb.convert(pocket_qwen3, tmp_path / "folder").path
    with aprnb.open(tmp_path / "x.safetensors") as checkpoint:
        assert aprnb.check(checkpoint, config=folder / "config.json").ok


def test_the_ending_of_a_target_is_read_in_any_case(pocket_qwen3, tmp_path):
    assert aprnb.convert(pocket_qwen3, tmp_path / "x.GGUF").format == "gguf"
    with pytest.raises(UsageProblem, match=r"x\.ONNX cannot be written"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.ONNX")


@pytest.mark.parametrize(("family", "dtype"), [("gemma3_text", "bfloat16"), ("qwen3", "float16")])
def test_a_float16_folder_is_computed_in_a_type_that_holds_the_activations(family, dtype, tmp_path):
    """Activations of published Gemma models exceed 65,504, float16's largest number: transformers gives NaN in it."""
    families.saved(family, tmp_path / "hf")
    converted = aprnb.convert(tmp_path / "hf", tmp_path / "out", dtype="f16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    told = [text for text in converted.warnings if "its config.json says bfloat16" in text]
    assert len(told) == (dtype == "bfloat16")  # BF16 keeps 8 bits of F16's 11


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3"])
def test_decoded_blocks_have_the_dtype_in_which_transformers_loads_the_folder(family, tmp_path):
    """Each value is then rounded once, by what the warning says."""
    families.saved(family, tmp_path / "hf")
    aprnb.convert(tmp_path / "hf", tmp_path / "x.apr", dtype="q8")
    converted = aprnb.convert(tmp_path / "x.apr", tmp_path / "out")
    (written,) = {row.written for row in converted.plan.rows if row.stored == "AprQ8" and row.part == "others"}
    assert any(f"are written as {written}" in text for text in converted.warnings)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == {"F16": "float16", "BF16": "bfloat16"}[written]
    import torch
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == getattr(torch, config["dtype"])
