"""Every family as GGUF: read back to equal logits, named as the gguf package names it, loaded alike by transformers."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

import aprnb
from aprnb.architecture import FAMILIES, expected_tensors
from aprnb.architecture.families.decoder import partly_windowed
from aprnb.formats.fields import FIELDS
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb_tests import families

IDS = torch.tensor([[5, 9, 2, 77, 31, 8, 60, 41, 3, 12, 99, 100, 7, 7, 25, 64, 80, 11, 90, 33]])

WITH_GRAPH = [name for name, family in FAMILIES.items() if family.gguf.slug]

REFUSED = {
    "mistral": "sliding_window 5", "qwen2": "sliding_window 5", "qwen3": "attention_bias", "gemma": "untied head",
    "gemma2": "untied head", "qwen3_moe": r"mlp_only_layers \[0\]", "gemma3_text": "query_pre_attn_scalar 100",
    "mixtral": "sliding_window 5", "gpt2": "scale_attn_by_inverse_layer_idx True", "smollm3": "attention_bias",
    "starcoder2": "sliding_window 5", "llama": "not those of a published Llama 3",
    "olmo2": "a tied head",
}  # fmt: skip
"""What the error says of the configs before these changes."""

STATED = {
    *("sliding_window", "layer_types", "attention_bias", "mlp_bias"),
    *("rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"),
}
"""What GGUF states without a key of the field's own, in other keys or by the tensors it holds."""


def changes(name: str) -> dict[str, Any]:
    """What to change in the family's tiny config so that its graph, as the family's table describes it, computes it."""
    family, config = FAMILIES[name], families.config(name)
    graph, layers = family.gguf, config.num_hidden_layers
    stated: dict[str, Any] = {rule.field: rule.value for rule in family.rules if not callable(rule.value)}
    stated |= graph.fixed
    wanted = {field: value for field, value in stated.items() if not FIELDS[field].gguf and field not in STATED}
    if graph.biases == "none":
        wanted |= {"attention_bias": False, "mlp_bias": False}
    if not graph.windowed:
        wanted |= {"use_sliding_window": False} if family.window_switch else {"sliding_window": None}
    if period := graph.full_attention_every:
        wanted["layer_types"] = partly_windowed(period, period - 1)(layers)
    if graph.unrotated_every:
        wanted["no_rope_layers"] = [int((layer + 1) % graph.unrotated_every != 0) for layer in range(layers)]
    if graph.layers_of_27b:
        wanted["query_pre_attn_scalar"] = config.head_dim
    if (families.SPECIAL[name].get("rope_parameters") or {}).get("rope_type") == "llama3":
        wanted |= {"rope_parameters": families.PUBLISHED_LLAMA3, "max_position_embeddings": 16384}
    if graph.head != "optional":
        wanted["tie_word_embeddings"] = graph.head == "tied"
    keys = {family.config_keys.get(field, field): value for field, value in wanted.items()}
    fixed = {"tie_word_embeddings"}  # the two sizes differ in it
    return {key: value for key, value in keys.items() if key in fixed or getattr(config, key, value) != value}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def loaded(path):
    checkpoint = aprnb.open(path)
    return build_model(checkpoint, aprnb.check(checkpoint).raise_for_violations(), place("cpu", "float32"))


@pytest.fixture(params=WITH_GRAPH)
def family(request, monkeypatch) -> str:
    special = families.SPECIAL[request.param] | changes(request.param)
    monkeypatch.setitem(families.SPECIAL, request.param, special)
    return request.param


@pytest.mark.parametrize("name", families.IN_GGUF)
def test_the_tables_describe_the_graphs_of_llama_cpp(name):
    assert changes(name) == families.IN_GGUF[name]


@pytest.mark.parametrize("size", [1, 2])
def test_a_model_written_as_gguf_reads_back_to_equal_logits(family, size, tmp_path):
    expected = logits(families.saved(family, tmp_path / "hf", size))
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    np.testing.assert_allclose(logits(loaded(tmp_path / "x.gguf")), expected, atol=2e-5 * float(expected.abs().max()))


def test_a_gguf_file_written_again_has_the_same_bytes(family, tmp_path):
    families.saved(family, tmp_path / "hf")
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    aprnb.convert(tmp_path / "x.gguf", tmp_path / "y.gguf")
    first, second = aprnb.open(tmp_path / "x.gguf"), aprnb.open(tmp_path / "y.gguf")
    assert {name: first.raw(name) for name in first} == {name: second.raw(name) for name in second}


def test_a_gguf_file_becomes_an_apr_with_equal_logits(family, tmp_path):
    expected = logits(families.saved(family, tmp_path / "hf"))
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    aprnb.convert(tmp_path / "x.gguf", tmp_path / "x.apr")
    np.testing.assert_allclose(logits(loaded(tmp_path / "x.apr")), expected, atol=2e-5 * float(expected.abs().max()))


def test_quantised_matrices_stay_close(family, tmp_path):
    """Rows of 64 are whole blocks of Q8_0; its codes are exact to 1/254 of a block's largest value."""
    expected = logits(families.saved(family, tmp_path / "hf"))
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf", dtype="q8")
    assert (logits(loaded(tmp_path / "x.gguf")) - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_names_are_the_gguf_packages(family, tmp_path):
    families.saved(family, tmp_path)
    architecture = aprnb.open(tmp_path).architecture
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == FAMILIES[family].gguf.slug)
    names = gguf.get_tensor_name_map(kind, architecture.num_hidden_layers)
    for name, tensor in expected_tensors(architecture).items():
        known = name.replace(f".experts.{tensor.expert}.", ".experts.") if tensor.rule.per_expert else name
        assert names.get_name(known, (".weight", ".bias")) == tensor.rule.gguf.format(layer=tensor.layer)


@pytest.mark.parametrize("name", [name for name in WITH_GRAPH if changes(name)])
def test_what_a_graph_of_llama_cpp_lacks_is_an_error_that_names_it(name, tmp_path):
    families.saved(name, tmp_path / "hf", 2 if FAMILIES[name].gguf.head == "own" else 1)  # size 2 is tied
    for attempt in (aprnb.plan_conversion, aprnb.convert):
        with pytest.raises(aprnb.AprnbError, match=REFUSED.get(name, "cannot be expressed|cannot express")):
            attempt(tmp_path / "hf", tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("name", "llama qwen2 qwen3 qwen3_moe gemma2 gemma3_text phi3 gpt2 starcoder2".split())
def test_transformers_makes_the_same_weights_of_it(name, tmp_path, monkeypatch):
    """Its reader of GGUF files undoes llama.cpp's conversion on its own, for these families; it is given the config."""
    monkeypatch.setitem(families.SPECIAL, name, families.SPECIAL[name] | changes(name))
    expected = logits(families.saved(name, tmp_path / "hf", 2))
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    model = getattr(transformers, FAMILIES[name].class_name).from_pretrained(
        tmp_path, gguf_file="x.gguf", config=families.config(name, 2), dtype=torch.float32
    )
    np.testing.assert_allclose(logits(model.eval()), expected, atol=2e-5 * float(expected.abs().max()))
