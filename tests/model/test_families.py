"""Every family: its table is the class's, its files load to equal logits, and required fields must be given."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import aprnb
from aprnb.architecture import FAMILIES, expected_tensors, parameter_count
from aprnb.architecture.experts import module_shapes
from aprnb.model.build import build_model, model_config
from aprnb.model.device import place
from aprnb_tests import families

IDS = torch.tensor([[5, 9, 2, 77, 31, 8, 60, 41, 3, 12, 99, 100, 7, 7, 25, 64, 80, 11, 90, 33]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def loaded(path):
    checkpoint = aprnb.open(path)
    report = aprnb.check(checkpoint).raise_for_violations()
    return build_model(checkpoint, report, place("cpu", "float32"))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_table_is_that_of_the_transformers_class(family, size, tmp_path):
    families.saved(family, tmp_path, size)
    architecture = aprnb.open(tmp_path).architecture
    with torch.device("meta"):
        built = getattr(__import__("transformers"), FAMILIES[family].class_name)(families.config(family, size))
    expected = {name: tensor.shape for name, tensor in expected_tensors(architecture).items()}
    assert {name: tuple(value.shape) for name, value in built.named_parameters()} == module_shapes(expected)
    assert sum(value.numel() for value in built.parameters()) == parameter_count(architecture)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_becomes_an_apr_that_loads_to_equal_logits(family, size, tmp_path):
    model = families.saved(family, tmp_path / "hf", size)
    aprnb.convert(tmp_path / "hf", tmp_path / "x.apr")
    expected = logits(model)
    for path in (tmp_path / "hf", tmp_path / "x.apr"):
        np.testing.assert_allclose(logits(loaded(path)), expected, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_field_is_left_to_the_class(family, tmp_path):
    """The config that we build computes what the source's does: compared field by field where both have it."""
    families.saved(family, tmp_path)
    ours, theirs = model_config(aprnb.open(tmp_path).architecture).to_dict(), families.config(family).to_dict()
    ignored = {"bos_token_id", "eos_token_id", "pad_token_id", "architectures", "dtype", "max_window_layers"}
    ignored |= {"no_rope_layer_interval", "_sliding_window_pattern"}
    ignored |= {name for name in ours if name.endswith(("dropout", "pdrop"))}  # off, see below
    if theirs.get("head_dim", "") is None:  # the class then divides the hidden size by the heads
        ignored.add("head_dim")
    compared = theirs.keys() - ignored
    assert {key: ours.get(key) for key in compared} == {key: theirs[key] for key in compared}


DIMENSIONS = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "num_key_value_heads", "n_embd", "n_layer", "n_head", "n_positions", "pad_token_id", "num_experts",
    "num_local_experts", "moe_intermediate_size",
}  # fmt: skip
LEFT_OUT = [(family, key) for family, keys in families.NEEDED.items() for key in keys]


def without(folder, key):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.parametrize(("family", "key"), LEFT_OUT)
def test_a_key_that_a_config_leaves_out_has_the_meaning_of_its_class(family, key, tmp_path):
    families.saved(family, tmp_path)
    without(tmp_path, key)
    architecture = aprnb.open(tmp_path).architecture
    field = {"rope_parameters": "rope_theta"}.get(key, key)
    theirs = getattr(transformers, FAMILIES[family].config_name).from_pretrained(tmp_path)
    expected = rope_theta(theirs) if field == "rope_theta" else getattr(theirs, field)
    assert architecture[field] == expected
    assert architecture.sources[field] == f"class default ({FAMILIES[family].config_name})"
    assert any(note.startswith(f"{field} = ") and f"leaves out {field}" in note for note in architecture.assumptions)


@pytest.mark.parametrize(("family", "key"), LEFT_OUT)
def test_without_a_config_what_the_forward_pass_needs_is_demanded_by_name(family, key, tmp_path):
    """A given config without a model type states what it states, and has no class."""
    families.saved(family, tmp_path)
    config = without(tmp_path, key)
    kind = config.pop("model_type")
    (tmp_path / "config.json").unlink()
    wanted = {"rope_parameters": "rope_theta"}.get(key, key)
    with pytest.raises(aprnb.AprnbError, match=f"does not state .*{wanted}"):
        aprnb.check(tmp_path / "model.safetensors", config=config, overrides={"model_type": kind})


def rope_theta(config):
    rope = config.rope_parameters
    return rope.get("full_attention", rope)["rope_theta"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_defaults_are_those_of_the_config_class(family):
    table = FAMILIES[family]
    config = getattr(transformers, table.config_name)()
    theirs = {name: getattr(config, table.config_keys.get(name, name), None) for name in table.defaults}
    if "rope_theta" in theirs:
        theirs |= {"rope_theta": rope_theta(config), "rope_scaling": None}
    if "rope_local_base_freq" in theirs:
        theirs["rope_local_base_freq"] = config.rope_parameters["sliding_attention"]["rope_theta"]
    assert dict(table.defaults) == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_with_nothing_but_dimensions_computes_what_transformers_computes(family, tmp_path):
    table = FAMILIES[family]
    small = {name: value for name, value in families.config(family).to_dict().items() if name in DIMENSIONS}
    if table.has_experts:
        small["num_local_experts"] = 8  # as many as the class picks for a token, where no key says
    torch.manual_seed(3)
    model = getattr(transformers, table.class_name)(getattr(transformers, table.config_name)(**small)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **small}))
    expected = logits(model)
    np.testing.assert_allclose(logits(loaded(tmp_path)), expected, atol=2e-5 * float(expected.abs().max()))


def test_a_class_default_is_shown_as_an_assumption_on_card_and_plan(tmp_path):
    families.saved("mistral", tmp_path)
    without(tmp_path, "sliding_window")
    note = "sliding_window = 4096: config.json leaves out sliding_window, the default of MistralConfig"
    report = aprnb.inspect(tmp_path)
    assert note in report.to_json()["assumptions"]
    assert note in report.to_html()


@pytest.mark.parametrize("name", ["gemma", "gpt2"])
def test_the_real_tools_own_file_computes_the_reference(real, sources, name):
    reference = json.loads((sources / name / "reference_logits.json").read_text())
    model = loaded(real(name))
    with torch.no_grad():
        found = model(input_ids=torch.tensor([reference["input_ids"]]), use_cache=False).logits[0]
    spread = float(found.max() - found.min())
    assert found.argmax(-1).tolist() == reference["argmax"]
    np.testing.assert_allclose(found[-1, :16], reference["last_logits_first_16"], atol=1e-4 * spread)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_is_the_fastest_that_computes_the_family_exactly(family):
    """Soft caps on attention logits need `eager`, whatever the class offers in this version."""
    capped = "attn_logit_softcapping" in FAMILIES[family].fields and family != "gemma3_text"  # always null there
    assert FAMILIES[family].attention == ("eager" if capped else "sdpa")
    assert capped or getattr(__import__("transformers"), FAMILIES[family].class_name)._supports_sdpa


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_dropped_out_in_training(family, tmp_path):
    """GPT-2's class drops a tenth where a config is silent; no file says that a run should."""
    families.saved(family, tmp_path)
    model = loaded(tmp_path).train()
    assert torch.equal(logits(model), logits(model.eval()))
