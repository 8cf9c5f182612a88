"""Unusual configs: computed as transformers does, or an error that names the key; never ignored."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

import aprnb
from aprnb.architecture import FAMILIES
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb_tests import families

IDS = torch.arange(20)[None]
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
SHORT_YARN = {key: value for key, value in YARN.items() if key != "original_max_position_embeddings"}


@pytest.fixture
def changed(tmp_path):
    """A folder of the family whose config says something else, or (`...`) nothing."""

    def make(family, **changes):
        families.saved(family, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        kept = {key: value for key, value in {**config, **changes}.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(kept))
        return tmp_path

    return make


def loaded(path):
    with aprnb.open(path) as checkpoint:
        return build_model(checkpoint, aprnb.check(checkpoint).raise_for_violations(), place("cpu", "float32"))


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


SAME = [
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e4}),
    ("llama", {"rope_parameters": SHORT_YARN, "original_max_position_embeddings": 16}),
    ("llama", {"sliding_window": 4}),  # its class has no window
    ("mistral", {"use_sliding_window": False}),  # its class has no such key
    ("mixtral", {"use_sliding_window": False}),
    ("qwen2", {"use_sliding_window": ..., "layer_types": ...}),  # its class takes false for it
    ("qwen2", {"max_window_layers": 3, "layer_types": None}),
    ("qwen2", {"max_window_layers": ..., "layer_types": ...}),
    ("qwen2", {"sliding_window": ..., "layer_types": ...}),
    ("qwen3", {"use_sliding_window": ..., "sliding_window": ...}),
    (
        "gemma3_text",
        {"rope_parameters": ..., "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 1e5},
    ),
    ("gemma3_text", {"rope_parameters": ..., "rope_local_base_freq": 2e4}),
    ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    ("qwen3_moe", {"norm_topk_prob": False}),
    ("mistral", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    ("gemma", {"hidden_activation": "gelu"}),
    ("gemma2", {"layer_types": None, "sliding_window_pattern": 3}),
    ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 2}),
    ("gemma3_text", {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5}),
    ("gpt2", {"scale_attn_weights": False, "activation_function": "relu"}),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}),
    ("smollm3", {"use_sliding_window": True, "sliding_window": 4, "layer_types": ...}),
]


@pytest.mark.parametrize(("family", "changes"), SAME, ids=str)
def test_the_logits_are_those_of_transformers(changed, family, changes):
    folder = changed(family, **changes)
    exact = "eager" if "softcap" in str(changes) else FAMILIES[family].attention
    theirs = getattr(transformers, FAMILIES[family].class_name).from_pretrained(
        folder, dtype=torch.float32, attn_implementation=exact
    )
    expected = logits(theirs)
    torch.testing.assert_close(logits(loaded(folder)), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


SCALED_LOCALLY = {
    "full_attention": {"rope_type": "default", "rope_theta": 3e4},
    "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3},
}
"""The class computes it; neither our fields nor llama.cpp's graph have a scaling of these layers alone."""
REJECTED = [
    ("llama", {"is_causal": False}, "is_causal is False: an encoder"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True: an encoder"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True: an encoder"),
    ("llama", {"partial_rotary_factor": 0.5}, "llama rotates whole heads"),
    ("llama", {"hidden_act": "foo"}, "does not take this architecture.*foo"),
    ("llama", {"rope_parameters": {"rope_type": "foo", "rope_theta": 1e4}}, "does not take this architecture.*foo"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "does not take this architecture.*factor"),
    ("llama", {"rope_parameters": {"rope_type": [None], "rope_theta": 1e4}}, r"rope_scaling rope_type is \[None\]"),
    (
        "llama",
        {"rope_parameters": {**families.LLAMA3, "low_freq_factor": True}},
        "rope_scaling low_freq_factor is True",
    ),
    (
        "llama",
        {"rope_theta": 1e4},
        "rope_theta is 10000.0 according to the top-level key, 50000.0 according to the RoPE parameters",
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        "is .* according to rope_parameters, .* according to rope_scaling",
    ),
    (
        "llama",
        {"original_max_position_embeddings": 16},
        "original_max_position_embeddings is 16 according to the top-level key, 32 according to",
    ),
    (
        "gemma3_text",
        {"rope_local_base_freq": 1e4},
        "rope_local_base_freq is 10000.0 according to the top-level key, 5000.0 according to",
    ),
    (
        "phi3",
        {"original_max_position_embeddings": ...},
        "is 4096 according to Phi3Config, 16 according to the RoPE parameters",
    ),
    (
        "llama",
        {"rope_scaling": {**families.LLAMA3, "rope_theta": 1e4}},
        "rope_theta is 50000.0 according to rope_parameters, 1",
    ),
    ("llama", {"rope_parameters": 5}, "config.json rope_parameters is 5; expected an object or null"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers lists 2 layers"),
    ("gemma2", {"layer_types": ["full_attention"] * 3, "sliding_window": None}, "sliding_window is null"),
    ("gpt2", {"n_head": None}, "does not state num_attention_heads"),
    ("gemma2", {"layer_types": ["x"] * 3}, "layer_types has 'x'"),
    ("gemma2", {"layer_types": ["full_attention"]}, "layer_types lists 1 layers"),
    ("gemma2", {"sliding_window": None}, "sliding_window is null"),
    ("qwen2", {"use_sliding_window": False}, "sliding_window is null"),  # with layer_types that name windows
    ("gemma3_text", {"rope_parameters": {"rope_type": "linear", "factor": 3.0}}, "the class uses no others"),
    ("gemma3_text", {"rope_parameters": SCALED_LOCALLY}, "of sliding_attention is .*factor.*; expected a rope_theta"),
    ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9 of 4 experts"),
]


@pytest.mark.parametrize(("family", "changes", "message"), REJECTED, ids=str)
def test_what_is_not_supported_is_an_error_that_names_it(changed, family, changes, message):
    with pytest.raises(aprnb.errors.ArchitectureError, match=message):
        loaded(changed(family, **changes))


def test_what_a_class_rejects_is_an_aprnb_error_in_a_conversion_too(changed, tmp_path):
    """Phi3Config's own check knows long factors only."""
    folder = changed("phi3", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    with pytest.raises(aprnb.errors.ArchitectureError, match="does not take this architecture"):
        aprnb.convert(folder, tmp_path / "out")


def test_an_encoder_in_a_sidecar_config_is_rejected_too(changed, tmp_path):
    folder = changed("gemma3_text")
    aprnb.convert(folder, tmp_path / "x.apr")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "use_bidirectional_attention": True}))
    with pytest.raises(aprnb.errors.UnsupportedFamily, match="an encoder"):
        aprnb.check(tmp_path / "x.apr")
