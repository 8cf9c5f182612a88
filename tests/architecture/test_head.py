"""A stored head beside a config that ties it: read as `transformers` reads it, whatever the config says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import aprnb
from aprnb_tests import families

CHANGES = {
    "an equal copy": lambda head: head.clone(),
    "an equal copy in another type": lambda head: head.float(),
    "a head of its own": lambda head: head + 0.3,
    "a head of its own in another type": lambda head: (head + 0.3).float(),
    "a head that differs in one element": lambda head: head.index_fill(0, torch.tensor([7]), 1.0),
}


@pytest.fixture(params=CHANGES)
def folder(request, tmp_path) -> Path:
    """A tied model in bfloat16 whose folder holds a head."""
    families.saved("qwen2", tmp_path / "hf", 2)
    path = tmp_path / "hf" / "model.safetensors"
    weights = {name: weight.bfloat16() for name, weight in load_file(path).items()}
    weights["lm_head.weight"] = CHANGES[request.param](weights["model.embed_tokens.weight"])
    save_file(weights, path, metadata={"format": "pt"})
    return tmp_path / "hf"


def is_tied_for_transformers(folder: Path) -> bool:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_stored_head_is_tied_where_transformers_ties_it(folder):
    architecture = aprnb.open(folder).architecture
    assert architecture.tie_word_embeddings == is_tied_for_transformers(folder)
    assert aprnb.check(folder).ok
    own = [text for text in architecture.warnings if "derived from lm_head.weight, which differs from" in text]
    assert len(own) == (not architecture.tie_word_embeddings)


def test_a_config_without_the_key_does_not_change_that(folder):
    """Qwen2Config leaves the head untied, which for an equal copy computes the same."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["tie_word_embeddings"]
    path.write_text(json.dumps(config))
    assert aprnb.check(folder).ok


@pytest.mark.parametrize("tied", [True, False])
def test_a_person_decides_with_a_setting(folder, tied):
    report = aprnb.check(folder, overrides={"tie_word_embeddings": tied})
    assert (report.ok, report.architecture.tie_word_embeddings) == (True, tied)
    assert report.architecture.sources["tie_word_embeddings"].startswith(("--set", "derived from lm_head.weight"))


def test_the_config_given_again_changes_nothing(folder):
    given = aprnb.check(folder, config=folder / "config.json").architecture
    assert given.tie_word_embeddings == aprnb.open(folder).architecture.tie_word_embeddings


def test_an_own_head_stays_its_own_in_every_format(tmp_path):
    families.saved("qwen2", tmp_path / "hf", 2)
    path = tmp_path / "hf" / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 0.3
    save_file(weights, path, metadata={"format": "pt"})
    config = {
        **json.loads((tmp_path / "hf" / "config.json").read_text()),
        "use_sliding_window": False,
        "layer_types": None,
    }
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    (tmp_path / "out").mkdir()
    for target in ("x.apr", "x.gguf", "folder"):
        aprnb.convert(tmp_path / "hf", tmp_path / "out" / target)
        architecture = aprnb.open(tmp_path / "out" / target).architecture
        assert architecture.tie_word_embeddings is False


def test_a_tied_model_without_a_head_says_that_it_is_derived(tmp_path):
    families.saved("qwen2", tmp_path, 2)
    assert aprnb.open(tmp_path).architecture.sources["tie_word_embeddings"] == "derived from the tensor index: no head"
    assert "tied_embeddings" not in aprnb.open(tmp_path).metadata


def test_an_error_blames_no_key_that_the_folder_does_not_hold(tmp_path):
    families.saved("qwen2", tmp_path, 2)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": False}))
    with pytest.raises(
        aprnb.AprnbError, match="True, derived from the tensor index: no head, False according to config"
    ):
        aprnb.check(tmp_path)
