"""Folders that hold buffers besides the weights, as `transformers` wrote them until version 4.30."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import aprnb
from aprnb_tests import families, tokenizers_of_families

LLAMA = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(3)}  # 64 / 4 heads / 2
CACHED = {f"model.layers.0.self_attn.rotary_emb.{kind}_cached": torch.ones(1, 1, 64, 16) for kind in ("cos", "sin")}
MASK = torch.ones(64, 64, dtype=torch.uint8).tril().reshape(1, 1, 64, 64)
GPT2 = {f"h.{layer}.attn.bias": MASK.clone() for layer in range(3)}
MASKED = {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)}


def with_tensors(family, folder, more):
    """A tiny model, its weights named as published (GPT-2's without `transformer.`), and these tensors."""
    families.saved(family, folder, vocabulary=1000)
    tokenizers_of_families.save(family, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    save_file({**tensors, **more}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("family", "buffers"),
    [("llama", LLAMA), ("llama", {"model.rotary_emb.inv_freq": torch.ones(8)}), ("llama", CACHED),
     ("gpt2", GPT2 | MASKED)],
    ids=["inv_freq of each layer", "inv_freq of the model", "tables", "masks"],
)  # fmt: skip
def test_stored_buffers_are_listed_and_not_written(family, buffers, tmp_path):
    plain, source = with_tensors(family, tmp_path / "plain", {}), with_tensors(family, tmp_path / "hf", buffers)
    result = aprnb.convert(source, tmp_path / "x.apr")
    assert [w for w in result.warnings if w.startswith(f"{len(buffers)} tensors are stored buffers")]
    aprnb.convert(plain, tmp_path / "y.apr")
    with aprnb.open(tmp_path / "x.apr") as found, aprnb.open(tmp_path / "y.apr") as wanted:
        assert found.content_hashes(found) == wanted.content_hashes(wanted)


@pytest.mark.parametrize(
    ("family", "name", "tensor"),
    [
        ("llama", "model.layers.1.self_attn.rotary_emb.inv_freq", torch.ones(9)),
        ("llama", "model.layers.3.self_attn.rotary_emb.inv_freq", torch.ones(8)),
        ("llama", "model.layers.1.self_attn.rotary_emb.other", torch.ones(8)),
        ("llama", "model.layers.1.self_attn.rotary_emb.cos_cached", torch.ones(64, 15)),
        ("gpt2", "h.1.attn.bias", torch.ones(64)),
        ("gpt2", "h.1.attn.bias", torch.ones(1, 1, 64, 63)),
        ("gpt2", "h.1.attn.masked_bias", torch.ones(3)),
    ],
    ids=["size", "layer", "name", "table", "vector", "not square", "not a number"],
)
def test_what_is_like_a_buffer_but_is_none_is_a_violation(family, name, tensor, tmp_path):
    (violation,) = aprnb.check(with_tensors(family, tmp_path / "hf", {name: tensor})).violations
    assert (violation.tensor, violation.kind) == (name, "unexpected")


def test_an_adapter_is_merged_into_a_base_with_stored_buffers(tmp_path):
    source = with_tensors("llama", tmp_path / "hf", LLAMA)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({key.format("A"): torch.ones(2, 64), key.format("B"): torch.ones(64, 2)},
              adapter / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    merged = aprnb.merge(source, adapter, tmp_path / "x.apr")
    assert merged.changed == 1
    with aprnb.open(tmp_path / "x.apr") as found:
        assert not [name for name in found.tensors if "rotary" in name]
