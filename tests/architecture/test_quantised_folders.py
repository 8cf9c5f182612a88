"""Folders whose weights are quantised, or named with the prefix of a wrapper: the error says so."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import aprnb
from aprnb.errors import ArchitectureError
from aprnb_tests import families


def changed(folder, change, **config):
    """A tiny Llama with other tensors and keys of its config."""
    families.saved("llama", folder)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def rejected(folder):
    with pytest.raises(ArchitectureError) as caught:
        aprnb.check(folder)
    assert "tensors" in aprnb.inspect(folder).to_json()
    return caught.value


@pytest.mark.parametrize(
    ("end", "method"),
    [("weight_scale_inv", "fp8"), ("weight_packed", "compressed-tensors"), ("qweight", "gptq or awq"),
     ("scales", "mlx"), ("SCB", "bitsandbytes")],
)  # fmt: skip
def test_tensors_of_a_quantisation_name_its_method(end, method, tmp_path):
    name = f"model.layers.0.self_attn.q_proj.{end}"
    error = rejected(changed(tmp_path / "hf", lambda tensors: {**tensors, name: torch.ones(4)}))
    assert error.found == f"the folder's weights are quantised by {method} (tensor {name})"
    assert ("dequantize" in error.action) == (method == "bitsandbytes")


@pytest.mark.parametrize(
    ("config", "said"),
    [({"quantization_config": {"quant_method": "awq"}}, "awq (config.json: quantization_config; tensor model.layers."),
     ({"quantization": {"bits": 8}}, "mlx (config.json: quantization; tensor model.layers.")],
)  # fmt: skip
def test_the_config_names_the_method_of_integer_weights(config, said, tmp_path):
    def integers(tensors):
        return {name: value.to(torch.int8) if "_proj.weight" in name else value for name, value in tensors.items()}

    assert said in rejected(changed(tmp_path / "hf", integers, **config)).found


def test_plain_weights_are_read_whatever_the_config_says_of_a_quantisation(tmp_path):
    folder = changed(tmp_path / "hf", dict, quantization_config={"quant_method": "gptq", "bits": 4})
    assert aprnb.check(folder).ok


def test_a_model_of_bitsandbytes_is_read_once_it_is_dequantised(tmp_path):
    families.saved("llama", tmp_path / "plain")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    load = transformers.AutoModelForCausalLM.from_pretrained
    load(tmp_path / "plain", quantization_config=config, device_map="cpu").save_pretrained(tmp_path / "hf")
    error = rejected(tmp_path / "hf")
    assert "quantised by bitsandbytes (config.json: quantization_config; tensor" in error.found
    load(tmp_path / "hf", device_map="cpu").dequantize().save_pretrained(tmp_path / "way out")
    assert aprnb.check(tmp_path / "way out").ok


@pytest.mark.parametrize(
    ("old", "new", "prefix"),
    [("", "_orig_mod.", "_orig_mod."), ("", "module.", "module."), ("", "language_model.", "language_model."),
     ("", "policy.net.", "policy.net."), ("model.", "model._orig_mod.", "_orig_mod.")],
)  # fmt: skip
def test_the_prefix_of_a_wrapper_is_named(old, new, prefix, tmp_path):
    def wrapped(tensors):
        return {new + name.removeprefix(old) if name.startswith(old) else name: v for name, v in tensors.items()}

    error = rejected(changed(tmp_path / "hf", wrapped))
    assert error.found.startswith(f"names of tensors have the prefix {prefix}, as {new}")
    assert "--set" not in error.action
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    renamed = {name.replace(prefix, "", 1): value for name, value in tensors.items()}
    save_file(renamed, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    assert aprnb.check(tmp_path / "hf").ok
