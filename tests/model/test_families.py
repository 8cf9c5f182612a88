"""Every family: its table is the class's, its files load to equal logits, and required fields must be given."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import aprnb
from aprnb.architecture import FAMILIES, expected_tensors, parameter_count
from aprnb.model.build import build_model, model_config
from aprnb.model.device import place
from aprnb.model.experts import module_shapes
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


@pytest.mark.parametrize(("family", "key"), [(family, key) for family, keys in families.NEEDED.items() for key in keys])
def test_what_the_forward_pass_needs_is_demanded_by_name(family, key, tmp_path):
    families.saved(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    wanted = {"rope_parameters": "rope_theta"}.get(key, key)
    with pytest.raises(aprnb.AprnbError, match=f"does not state .*{wanted}"):
        aprnb.check(tmp_path)


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
