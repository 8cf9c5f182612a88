"""The same loop trains every family: with its own logits, separate documents, and adapters as planned."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import aprnb
from aprnb.adapters import read_adapter
from aprnb.adapters.names import Key
from aprnb.architecture import FAMILIES, expected_tensors
from aprnb.architecture.weights import read_weight
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb.tuning.planning.memory import activation_bytes, adapted_shapes, weight_bytes
from aprnb.tuning.training.batches import Batches
from aprnb.tuning.training.lora import attach, prepare_full
from aprnb.tuning.training.loss import answer_loss, hidden_states
from aprnb_tests import families
from aprnb_tests.tiny import CPU, bytes_kept_for_backward, tiny_examples, tiny_recipe

EXPERTS = ("mixtral", "qwen3_moe")
COW = "notebooks/ask-the-cow.jsonl"


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(family, tmp_path):
    families.saved(family, tmp_path)
    with aprnb.open(tmp_path) as checkpoint:
        return build_model(checkpoint, aprnb.check(checkpoint), place("cpu", "float32"))


def test_the_loss_is_that_of_the_classs_own_logits(model):
    """Gemma 2's cap and Granite's divisor come after the head, which the loss applies itself."""
    ids, positions, labelled = Batches(model, CPU, 256, torch.float32).row(tiny_examples(), (2,))
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        found, count = answer_loss(model, ids, positions, labelled)
    wanted = torch.where(labelled, ids, -100)[1:]
    assert count == int((wanted != -100).sum())
    assert found.item() == pytest.approx(cross_entropy(logits[:-1], wanted, reduction="sum").item(), rel=1e-5)


def test_packed_documents_do_not_see_each_other(model):
    examples, chosen = tiny_examples(), (3, 0, 7)
    batches = Batches(model, CPU, 256, torch.float32)
    with torch.no_grad():
        packed = hidden_states(model, *batches.row(examples, chosen)[:2])
        alone = torch.cat([hidden_states(model, *batches.row(examples, (index,))[:2]) for index in chosen])
    assert (packed - alone).abs().max() < 2e-5 * alone.abs().max()


@pytest.fixture(scope="module")
def tokenizer(pocket_qwen3):
    return aprnb.load(pocket_qwen3)[1]


@pytest.fixture
def base(family, tokenizer, tmp_path):
    """An `.apr` of the family that guesses evenly, with the pocket model's tokenizer."""
    families.saved(family, tmp_path / "hf", vocabulary=-(-len(tokenizer) // 8) * 8, spread=0)
    tokenizer.save_pretrained(tmp_path / "hf")
    aprnb.convert(tmp_path / "hf", tmp_path / "base.apr")
    return tmp_path / "base.apr"


def tuned(base, repository, **more):
    options = {"max_steps": 2, "batch_size": 4, "max_seq_len": 64, "learning_rate": 2e-3} | more
    return aprnb.finetune(base, data=repository / COW, output=str(base.with_name("out.apr")), **options)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_two_steps_change_what_the_plan_names_and_merge_to_w_plus_ba(family, base, repository, method):
    run = tuned(base, repository, method=method, rank=4)
    assert run.status == "finished"
    assert (run.metrics["grad_norm"] > 0).all()
    assert np.isfinite(run.metrics["loss"]).all()
    architecture = run.plan.architecture
    adapter = read_adapter(run.adapter)
    assert {key.module.split(".")[-1] for key in adapter.tensors} == set(adapted_shapes(architecture))
    record = json.loads((base.parent / "out.run" / "manifest.json").read_text())
    assert record["used"]["trainable_parameters"] == run.plan.parameters_trainable
    before, after = aprnb.open(base), aprnb.open(run.output)
    reports = aprnb.check(before), aprnb.check(after).raise_for_violations()
    scale = adapter.config.alpha / adapter.config.rank
    for name, tensor in expected_tensors(architecture).items():
        old, new = (read_weight(file, report, name) for file, report in zip((before, after), reports, strict=True))
        module = name.removesuffix(".weight")
        a, b = (adapter.tensors.get(Key(module, part)) for part in ("A", "B"))
        change = scale * (b @ a) if a is not None else np.zeros_like(old)
        wanted = old + (change.T if tensor.rule.role == "conv1d" else change)
        np.testing.assert_allclose(new, wanted, rtol=0, atol=1e-6 if a is not None else 0, err_msg=name)
    said = " ".join(run.plan.warnings)
    assert ("experts and routers get no adapter" in said) == (family in EXPERTS)
    assert ("NF4 applies to attention only" in said) == (family in EXPERTS and method == "qlora")


def test_full_training_writes_every_weight_back_under_its_own_name(family, base, repository):
    run = tuned(base, repository, method="full", learning_rate=1e-3)
    before, after = aprnb.open(base), aprnb.open(run.output)
    reports = aprnb.check(before), aprnb.check(after).raise_for_violations()
    names = list(expected_tensors(run.plan.architecture))
    changed = [
        name for name in names if (read_weight(before, reports[0], name) != read_weight(after, reports[1], name)).any()
    ]
    assert len(changed) > 0.8 * len(names)
    assert run.to_json()["merge_check"]["max_abs_difference"] < 1e-4


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_the_planned_weights_are_those_of_the_loaded_model(family, base, quantize):
    with aprnb.open(base) as checkpoint:
        report = aprnb.check(checkpoint)
        model = build_model(checkpoint, report, place("cpu", "float32", quantize))
    held = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        held += parameter.nbytes + (state.absmax.nbytes + state.state2.absmax.nbytes if state else 0)
    planned = weight_bytes(report.architecture, report.parameters, "qlora" if quantize else "lora", "float32")
    assert planned == pytest.approx(held, rel=0.02)


def planned_share(family, tmp_path, method, dtype):
    """The planned bytes of activations, divided by those that autograd keeps."""
    families.saved(family, tmp_path)
    with aprnb.open(tmp_path) as checkpoint:
        report = aprnb.check(checkpoint)
        model = build_model(checkpoint, report, place("cpu", "float32" if method == "full" else dtype))
    architecture = report.architecture
    recipe = tiny_recipe(rank=1, alpha=2.0)
    model = prepare_full(model) if method == "full" else attach(model, recipe, adapted_shapes(architecture))
    found = bytes_kept_for_backward(model, getattr(torch, dtype), 64, 32)
    if method == "full" and dtype == "bfloat16":
        found -= 2 * report.parameters  # the 16-bit copies of the weights, which the plan counts as weights
    planned = activation_bytes(architecture, 64, method, dtype, checkpointing=False)
    return planned / found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_planned_activations_are_those_that_autograd_keeps(family, tmp_path, method, dtype):
    assert 0.85 < planned_share(family, tmp_path, method, dtype) < 1.2


def test_an_activation_computed_in_steps_is_planned_with_what_they_keep(tmp_path, monkeypatch):
    monkeypatch.setitem(families.SPECIAL, "llama", {"hidden_act": "gelu_new"})
    assert 0.9 < planned_share("llama", tmp_path, "lora", "float32") < 1.1


def test_experts_as_targets_are_an_error_that_names_them(tokenizer, tmp_path, repository):
    families.saved("mixtral", tmp_path / "hf", vocabulary=-(-len(tokenizer) // 8) * 8, spread=0)
    tokenizer.save_pretrained(tmp_path / "hf")
    with pytest.raises(aprnb.errors.UsageProblem, match="--target-modules w1.*q_proj, k_proj, v_proj, o_proj"):
        tuned(tmp_path / "hf", repository, method="lora", target_modules=("w1",))
