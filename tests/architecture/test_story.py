"""Qwen3-8B from the file has 36 layers; each of seven changes to the file is an error."""

import subprocess
import sys

import pytest

import aprnb
from aprnb.architecture import parameter_count
from aprnb_tests import story


def test_the_architecture_is_that_of_the_file_and_the_contract_is_green(tmp_path):
    path = story.write(tmp_path / "qwen_qwen3-8b.apr")
    report = aprnb.check(path)
    a = report.architecture
    assert (a.num_hidden_layers, a.num_attention_heads, a.num_key_value_heads, a.head_dim, a.vocab_size) == (
        36,
        32,
        8,
        128,
        151936,
    )
    assert report.ok
    assert report.checked == 399
    assert parameter_count(a) == 8_190_735_360  # the published count of Qwen3-8B


def test_the_transformers_class_of_that_size_agrees_on_the_meta_device(tmp_path):
    from aprnb.model.build import compare_with_class

    compare_with_class(aprnb.open(story.write(tmp_path / "8b.apr")).architecture)


def transposed():
    shapes = story.shapes()
    return shapes | {"model.layers.7.mlp.up_proj.weight": shapes["model.layers.7.mlp.up_proj.weight"][::-1]}


def without(fragment):
    return {name: shape for name, shape in story.shapes().items() if fragment not in name}


SPOILED = {
    "28 layers": (
        None,
        {"num_layers": 28},
        r"num_hidden_layers is 36 according to layers in the tensor index, 28 according to metadata num_layers",
    ),
    "transposed": (
        transposed(),
        {},
        r"model\.layers\.7\.mlp\.up_proj\.weight: shape: expected .*12288, 4096.*transposed",
    ),
    "missing": (without("layers.35.self_attn.v_proj"), {}, r"model\.layers\.35\.self_attn\.v_proj\.weight: missing"),
    "extra layer": (story.shapes(37), {}, r"num_hidden_layers is 37 according to .*, 36 according to metadata"),
    "head_dim 64": (
        None,
        {"head_dim": 64},
        r"head_dim is 128 according to shape of model\.layers\.0\.self_attn\.q_norm\.weight, 64 according to metadata",
    ),
    "no q_norm": (without("q_norm"), {}, r"36 of 399 tensors.*q_norm\.weight: missing"),
    "family": (
        None,
        {"hf_model_type": "qwen9", "architecture": "qwen9"},
        r"family 'qwen9' .*llama, mistral, .*qwen2, qwen3",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_changed_file_is_rejected_before_a_weight_is_read(tmp_path, how):
    tensors, changes, message = SPOILED[how]
    path = story.write(tmp_path / "8b.apr", tensors, **changes)
    with pytest.raises(aprnb.AprnbError, match=f"(?s){message}") as caught:
        aprnb.check(path).raise_for_violations()
    assert caught.value.exit_code == 5
    run = subprocess.run([sys.executable, "-m", "aprnb", "plan", str(path)], capture_output=True, text=True)
    assert run.returncode == 5
