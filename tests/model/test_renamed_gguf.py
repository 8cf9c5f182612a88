"""GGUF's bytes under Hugging Face names: `apr import` renames tensors, rows and norms stay as llama.cpp has them."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

import aprnb
from aprnb.architecture.names import canonical_name
from aprnb.formats import TensorSource, write_apr
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb_tests import families

IDS = torch.tensor([[5, 9, 2, 77, 31, 8, 60, 41, 3, 12]])
PLAIN = {"llama": {"attention_bias": True}, "mistral": {"sliding_window": None}, "gemma": {"head_dim": 24}}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def loaded(path):
    with aprnb.open(path) as checkpoint:
        return build_model(checkpoint, aprnb.check(checkpoint).raise_for_violations(), place("cpu", "float32"))


def same(path, expected):
    np.testing.assert_allclose(logits(loaded(path)), expected, atol=2e-5 * float(expected.abs().max()))


@pytest.fixture(params=PLAIN)
def pair(request, tmp_path, monkeypatch):
    """Reference logits, and the model's GGUF; tied, since llama.cpp's gemma is."""
    monkeypatch.setitem(families.SPECIAL, request.param, PLAIN[request.param])
    expected = logits(families.saved(request.param, tmp_path / "hf", 2))
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    return request.param, expected, tmp_path / "x.gguf"


def test_a_safetensors_file_that_the_tool_calls_gguf_is_read_unchanged(tmp_path, monkeypatch):
    """`apr convert` writes that origin and rope_type 0 for safetensors too, with the class's name."""
    monkeypatch.setitem(families.SPECIAL, "llama", {})
    expected = logits(families.saved("llama", tmp_path / "hf", 2))
    with aprnb.open(tmp_path / "hf") as source:
        tensors = [TensorSource(n, e.dtype, e.shape, lambda n=n: source.raw(n)) for n, e in source.tensors.items()]
        metadata = {"architecture": "llama", "hf_config": source.architecture.fields(), "original_format": "gguf"}
        metadata |= {"model_type": "llama", "hf_architecture": "LlamaForCausalLM", "rope_type": 0}
        write_apr(tmp_path / "x.apr", metadata, tensors)
    for target in ("x.apr", "again.apr", "folder"):
        if target != "x.apr":
            aprnb.convert(tmp_path / "x.apr", tmp_path / target)
        same(tmp_path / target, expected)


def renamed(gguf, path, **stated):
    with aprnb.open(gguf) as source:
        family = source.architecture.family
        tensors = [
            TensorSource(canonical_name(name, family), entry.dtype, entry.shape, lambda name=name: source.raw(name))
            for name, entry in source.tensors.items()
        ]
        fields = source.architecture.fields()
        metadata = {
            "model_type": family.model_type, "architecture": family.model_type, "hf_config": fields,
            "num_heads": fields["num_attention_heads"], "original_format": "gguf", "rope_type": 0, **stated,
        }  # fmt: skip
        write_apr(path, metadata, tensors)


def test_rows_and_norms_are_read_by_their_origin(pair, tmp_path):
    _, expected, gguf = pair
    renamed(gguf, tmp_path / "renamed.apr")
    same(tmp_path / "renamed.apr", expected)


@pytest.mark.parametrize("target", ["again.apr", "folder", "again.gguf"])
def test_every_conversion_of_such_a_file_keeps_its_meaning(pair, tmp_path, target):
    _, expected, gguf = pair
    renamed(gguf, tmp_path / "renamed.apr")
    same(aprnb.convert(tmp_path / "renamed.apr", tmp_path / target).path, expected)


def test_tensors_with_split_halves_are_read_unchanged(pair, tmp_path):
    """rope_type 2 is the rotation of halves: rows that say so are the model's own, whatever the origin."""
    _, expected, gguf = pair
    renamed(gguf, tmp_path / "renamed.apr", rope_type=2)
    assert (logits(loaded(tmp_path / "renamed.apr")) - expected).abs().max() > 0.01 * expected.abs().max()


@pytest.mark.apr
@pytest.mark.parametrize(
    ("family", "special", "name"),
    [
        (
            "llama",
            {"attention_bias": True},
            "model.layers.0.self_attn.q_proj.weight",
        ),  # a q bias: it takes Qwen's names
        ("gpt2", {"n_inner": 96}, "blk.0.attn_qkv.weight"),  # and calls the class Gpt2ForCausalLM
    ],
)
def test_the_tools_own_import_computes_the_source(
    apr_binary, tmp_path, monkeypatch, pocket_qwen3, family, special, name
):
    monkeypatch.setitem(families.SPECIAL, family, special)
    expected = logits(families.saved(family, tmp_path / "hf", 1, vocabulary=832))
    aprnb.load(pocket_qwen3)[1].save_pretrained(tmp_path / "hf")
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    command = [apr_binary, "import", tmp_path / "x.gguf", "-o", tmp_path / "tool.apr"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert name in aprnb.open(tmp_path / "tool.apr")
    same(tmp_path / "tool.apr", expected)
