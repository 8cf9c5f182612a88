"""A family is one file: a new one is registered, and every room works with it without another edit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import aprnb
from aprnb.architecture import FAMILIES, expected_tensors
from aprnb.architecture.families import register
from aprnb.architecture.weights import read_weight
from aprnb.model import build
from aprnb_tests import families

OLMO2 = Path(aprnb.__file__).parent / "architecture" / "families" / "olmo2.py"
IDS = torch.tensor([[5, 9, 2, 77, 31, 8, 60, 41]])


class NewcomerConfig(transformers.Olmo2Config):
    model_type = "newcomer"


class NewcomerForCausalLM(transformers.Olmo2ForCausalLM):
    config_class = NewcomerConfig


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """OLMo 2's file under another name, in a module outside the package, and the classes in `transformers`."""
    text = OLMO2.read_text().replace("OLMO2", "NEWCOMER").replace("Olmo2", "Newcomer").replace("olmo2", "newcomer")
    module = tmp_path / "newcomer.py"
    module.write_text(f"{text}\nfrom aprnb.architecture.families import register\n\nregister(NEWCOMER)\n")
    for library in (build.transformers, families.transformers):  # importing peft replaces the module: they may differ
        for made in (NewcomerConfig, NewcomerForCausalLM):
            monkeypatch.setattr(library, made.__name__, made, raising=False)
    monkeypatch.setitem(families.SPECIAL, "newcomer", {})
    spec = importlib.util.spec_from_file_location("newcomer", module)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield "newcomer"
    del FAMILIES["newcomer"]


@pytest.fixture
def base(newcomer, pocket_qwen3, tmp_path):
    """A folder of the new family, with the pocket model's tokenizer, that guesses evenly."""
    tokenizer = aprnb.load(pocket_qwen3)[1]
    families.saved(newcomer, tmp_path / "hf", vocabulary=-(-len(tokenizer) // 8) * 8, spread=0)
    tokenizer.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("suffix", [".apr", ".gguf"])
def test_it_is_converted_and_loads_to_equal_logits(newcomer, base, tmp_path, suffix):
    expected = logits(
        families.saved(newcomer, base, vocabulary=json.loads((base / "config.json").read_text())["vocab_size"])
    )
    aprnb.convert(base, tmp_path / f"x{suffix}")
    model, tokenizer = aprnb.load(tmp_path / f"x{suffix}", device="cpu", dtype="float32")
    np.testing.assert_allclose(logits(model), expected, atol=2e-5 * float(expected.abs().max()))
    assert type(model).__name__ == "NewcomerForCausalLM"
    assert tokenizer("one two").input_ids


def test_its_gguf_file_names_its_graph_and_reads_back(newcomer, base, tmp_path):
    aprnb.convert(base, tmp_path / "x.gguf")
    aprnb.convert(tmp_path / "x.gguf", tmp_path / "back.apr")
    metadata = aprnb.open(tmp_path / "x.gguf").metadata
    assert metadata["gguf.kv"]["general.architecture"]["v"] == "newcomer"
    assert (metadata["hf_model_type"], metadata["hf_architecture"]) == ("newcomer", "NewcomerForCausalLM")
    assert aprnb.check(tmp_path / "back.apr").raise_for_violations().architecture.model_type == "newcomer"


def test_two_steps_of_lora_change_every_projection(base, repository, tmp_path):
    options = {"max_steps": 2, "batch_size": 4, "max_seq_len": 64, "learning_rate": 2e-3, "rank": 4}
    run = aprnb.finetune(
        base,
        data=repository / "notebooks/ask-the-cow.jsonl",
        output=str(tmp_path / "out.apr"),
        method="lora",
        **options,
    )
    assert run.status == "finished"
    files = aprnb.open(base), aprnb.open(run.output)
    reports = [aprnb.check(file).raise_for_violations() for file in files]
    assert reports[1].architecture.model_type == "newcomer"
    changed, projections = set(), set()
    for name, tensor in expected_tensors(run.plan.architecture).items():
        old, new = (read_weight(file, report, name) for file, report in zip(files, reports, strict=True))
        changed |= {name} if (old != new).any() else set()
        projections |= {name} if tensor.rule.role == "linear" else set()
    assert changed == projections


def test_a_model_type_is_registered_once(newcomer):
    with pytest.raises(ValueError, match="the family newcomer is registered already"):
        register(FAMILIES[newcomer])
