"""The plan's counts are those of the run, in parameters, tokens and memory."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aprnb.architecture import Architecture, ContractReport, parameter_count
from aprnb.errors import UsageProblem
from aprnb.tuning.planning.device import DeviceFacts
from aprnb.tuning.planning.make_plan import make_plan
from aprnb.tuning.planning.memory import activation_bytes, adapter_parameters, logit_bytes, plan_memory, weight_bytes
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.recipe import Recipe, RunOptions
from aprnb.tuning.planning.settle import settle
from aprnb.tuning.training.lora import attach, prepare_full
from aprnb.tuning.training.loss import chunked_cross_entropy
from aprnb.units import bytes_text
from aprnb_tests.memory import forget_peak, peak
from aprnb_tests.tiny import (
    bytes_kept_for_backward,
    schedule_of,
    tiny_config,
    tiny_examples,
    tiny_model,
    tiny_nf4_model,
    tiny_recipe,
)

GIB = 2**30
TINY = Architecture(
    model_type="qwen3", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
    intermediate_size=128, vocab_size=96, max_position_embeddings=128, rope_theta=10000.0, rms_norm_eps=1e-6,
    tie_word_embeddings=True, attention_bias=False, mlp_bias=False, sliding_window=None, rope_scaling=None,
    hidden_act="silu",
)  # fmt: skip
QWEN3_8B = dataclasses.replace(
    TINY, hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    intermediate_size=12288, vocab_size=151936, max_position_embeddings=40960, tie_word_embeddings=False,
)  # fmt: skip
LAPTOP = DeviceFacts("cpu", "a laptop", "float32", 16 * GIB)
GPU = DeviceFacts("cuda:0", "a GPU", "bfloat16", 80 * GIB)


def plan_of(recipe: Recipe, facts: DeviceFacts = LAPTOP) -> Plan:
    examples = tiny_examples()
    report = ContractReport(Path("tiny.apr"), TINY, (), (), {})
    settled, notes = settle(recipe, "auto", TINY, facts)
    schedule = schedule_of(examples, *2 * [((0, 1, 2), (3, 4, 5, 6))])
    return make_plan(
        report, settled, RunOptions(), examples, tiny_examples(3), schedule, facts, notes, ("from the file",)
    )


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_the_plan_counts_the_parameters_that_the_run_trains(targets: Any) -> None:
    recipe = Recipe(method="lora", rank=4, target_modules=targets)
    plan = plan_of(recipe)
    model = attach(tiny_model(), plan.recipe)
    assert plan.parameters_trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert plan.parameters_total == sum(p.numel() for p in tiny_model().parameters())


def test_the_story_model_has_its_known_counts() -> None:
    assert parameter_count(QWEN3_8B) == 8_190_735_360
    # Per layer, rank 16: q 8192, k and v 5120 each, o 8192, gate, up and down 16384 each, times 16; 36 layers.
    assert adapter_parameters(QWEN3_8B, 16) == 36 * 16 * (8192 + 2 * 5120 + 8192 + 3 * 16384) == 43_646_976


def test_full_training_trains_every_parameter() -> None:
    plan = plan_of(Recipe(method="full"))
    assert plan.parameters_trainable == plan.parameters_total


def test_weights_take_what_the_loaded_model_takes() -> None:
    total = parameter_count(TINY)
    assert weight_bytes(TINY, total, "lora", "float32") == sum(p.nbytes for p in tiny_model().parameters())
    held = 0
    for parameter in tiny_nf4_model().parameters():
        state = getattr(parameter, "quant_state", None)
        held += parameter.nbytes + (state.absmax.nbytes + state.state2.absmax.nbytes if state else 0)
    assert weight_bytes(TINY, total, "qlora", "float32") == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_activations_are_those_that_autograd_keeps(method: str, dtype: str) -> None:
    tokens = 128
    base = tiny_model()
    model = prepare_full(base) if method == "full" else attach(base.to(getattr(torch, dtype)), tiny_recipe(rank=1))
    found = bytes_kept_for_backward(model, getattr(torch, dtype), tokens)
    if method == "full" and dtype == "bfloat16":
        found -= 2 * parameter_count(TINY)  # the 16-bit copies of the weights, which the plan counts as weights
    planned = activation_bytes(TINY, tokens, method, dtype, checkpointing=False)
    assert planned == pytest.approx(found, rel=0.05)  # within 3.1 %


def test_checkpointing_leaves_one_layer_and_the_borders_of_the_others() -> None:
    kept, recomputed = (activation_bytes(QWEN3_8B, 2048, "lora", "bfloat16", checkpointing=on) for on in (False, True))
    assert recomputed < kept / 10


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot reset peaks")
def test_the_planned_logits_are_those_that_the_loss_holds() -> None:
    large = dataclasses.replace(TINY, vocab_size=1 << 17)
    head = torch.nn.Linear(8, large.vocab_size, bias=False).requires_grad_(False)
    hidden = torch.randn(256, 8, requires_grad=True)
    targets = torch.arange(256)
    before = forget_peak()
    chunked_cross_entropy(hidden, head, targets).backward()
    assert peak() - before == pytest.approx(logit_bytes(large, 256), rel=0.1)


def test_the_terms_add_up() -> None:
    plan = plan_memory(
        QWEN3_8B, 8_190_735_360, 43_646_976, method="qlora", dtype="bfloat16", optimizer="adamw", checkpointing=True,
        micro_batch_tokens=8192,
    )  # fmt: skip
    found = plan.to_json()
    assert found["total"] == sum(value for name, value in found.items() if name != "total")
    assert (found["adapters"], found["gradients"], found["optimizer"]) == tuple(43_646_976 * n for n in (4, 4, 8))
    # 6.95e9 weights of the layers in 4 bits and scales, 1.24e9 of embedding and head in 16 bits.
    assert found["weights"] == pytest.approx(6.07e9, rel=0.01)


def test_the_plan_as_json_has_the_keys_that_scripts_rely_on() -> None:
    found = json.loads(json.dumps(plan_of(Recipe()).to_json()))
    keys = "architecture method parameters data steps memory_bytes device dtype attention assumptions warnings"
    assert set(keys.split()) <= set(found)
    assert set(found["parameters"]) == {"total", "trainable"}
    assert {"rows", "rows_without_labels", "tokens", "labelled_tokens"} <= set(found["data"])
    assert list(found["memory_bytes"]) == [
        "weights", "adapters", "gradients", "optimizer", "activations", "logits", "kernels", "libraries",
        "checking", "total",
    ]  # fmt: skip
    assert found["architecture"]["head_dim"]["value"] == 32


def test_the_plan_shows_itself_as_text_and_html() -> None:
    plan = plan_of(Recipe())
    for shown in (str(plan), plan.to_html()):
        for words in ("lora", "held out", "activations", "from the file"):
            assert words in shown


def test_auto_chooses_lora_where_the_base_fits_and_reports_it() -> None:
    recipe, notes = settle(Recipe(), "auto", QWEN3_8B, GPU)
    assert (recipe.method, recipe.learning_rate, recipe.micro_batch_tokens) == ("lora", 2e-4, 8192)
    assert any(note.startswith("method lora") for note in notes)


def test_auto_chooses_qlora_where_the_base_does_not_fit_and_reports_it() -> None:
    recipe, notes = settle(Recipe(), "auto", QWEN3_8B, LAPTOP)
    assert (recipe.method, recipe.quantize_nf4, recipe.micro_batch_tokens) == (
        "qlora",
        True,
        1024,
    )  # a CPU takes 512, or one row of the longest
    assert any(note.startswith("method qlora") for note in notes)


def test_checkpointing_is_chosen_and_reported_where_activations_do_not_fit() -> None:
    tight = dataclasses.replace(GPU, available_bytes=24 * GIB)
    recipe, notes = settle(Recipe(method="lora"), "auto", QWEN3_8B, tight)
    assert recipe.gradient_checkpointing == "on"
    assert any("gradient checkpointing on" in note for note in notes)
    assert settle(Recipe(method="lora"), "auto", TINY, LAPTOP)[0].gradient_checkpointing == "off"


def test_a_settled_recipe_leaves_nothing_open() -> None:
    recipe, _ = settle(Recipe(), "auto", TINY, LAPTOP)
    settled = (recipe.rank, recipe.alpha, recipe.max_seq_len, recipe.learning_rate, recipe.micro_batch_tokens)
    assert settled == (16, 32.0, 128, 2e-4, 512)
    assert "auto" not in vars(recipe).values()
    assert {name for name, value in vars(recipe).items() if value is None} == {"max_steps", "chat_template"}


def test_a_settled_recipe_keeps_what_is_given() -> None:
    given = {"rank": 4, "alpha": 5.0, "lora_dropout": 0.25, "learning_rate": 1e-3, "val_split": 0.3, "max_seq_len": 99}
    recipe, _ = settle(Recipe(method="lora", **given), "off", TINY, LAPTOP)
    assert {name: getattr(recipe, name) for name in given} == given


def test_each_method_has_its_own_learning_rate() -> None:
    """Those that the help of --learning-rate names."""
    rates = {m: settle(Recipe(method=m), "off", TINY, LAPTOP)[0].learning_rate for m in ("lora", "qlora", "full")}
    assert rates == {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_seq_len": 4096}, "at most 128, the model's max_position_embeddings"),
        ({"optimizer": "paged_adamw8bit"}, "a CUDA device, or adamw"),
        ({"target_modules": ("qproj",)}, "did you mean q_proj?"),
    ],
)
def test_what_model_or_device_cannot_do_is_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        settle(Recipe(**options), "auto", TINY, LAPTOP)
    assert words in str(caught.value)


def test_too_little_memory_is_a_warning() -> None:
    plan = plan_of(Recipe(method="full"), dataclasses.replace(LAPTOP, available_bytes=1000))
    assert any("is free" in warning for warning in plan.warnings)


def test_rows_that_are_cut_or_left_out_are_warnings() -> None:
    examples = dataclasses.replace(tiny_examples(), truncated=2, rows_without_labels=3)
    recipe, _ = settle(Recipe(), "auto", TINY, LAPTOP)
    report = ContractReport(Path("tiny.apr"), TINY, (), (), {})
    plan = make_plan(report, recipe, RunOptions(), examples, None, schedule_of(examples, ((0,),)), LAPTOP)
    text = " ".join(plan.warnings)
    assert "2 rows have more than 128 tokens and are cut at the head" in text
    assert "3 rows have nothing to train on" in text
    assert "no rows are held out" in text


def test_the_tiny_architecture_is_the_tiny_config() -> None:
    config = tiny_config()
    for name in ("hidden_size", "num_hidden_layers", "head_dim", "intermediate_size", "vocab_size"):
        assert getattr(TINY, name) == getattr(config, name)


def test_the_plan_says_why_it_has_its_dtype_and_its_attention() -> None:
    reason = "the processor has no bf16 instructions"
    shown = str(plan_of(Recipe(method="lora"), dataclasses.replace(LAPTOP, dtype_reason=reason)))
    assert re.search(rf"precision +float32 +{reason}; gradient checkpointing off", shown)
    assert re.search(r"attention +sdpa +exact for this model", shown)


def test_a_dtype_that_the_device_has_to_emulate_is_a_warning() -> None:
    facts = dataclasses.replace(LAPTOP, dtype="bfloat16", is_emulated=True)
    assert (
        "cpu has no bf16 instructions and computes it more slowly than --dtype f32"
        in plan_of(Recipe(method="lora"), facts).warnings
    )
    assert not [warning for warning in plan_of(Recipe(method="lora")).warnings if "bf16" in warning]


def test_the_first_line_says_how_much_memory_of_how_much_and_what_is_written_and_no_other_total() -> None:
    plan = dataclasses.replace(plan_of(Recipe()), writes={"out/tuned.apr": 1_258_291, "out/tuned.run": 1 << 21})
    first = str(plan).splitlines()[0]
    total = bytes_text(plan.memory.total)
    assert first.startswith(f"Plan: {total} of 16.00 GiB · writes 3.20 MiB: tuned.apr, .run")
    others = [line for line in str(plan).splitlines()[1:] if "of 16.00 GiB" in line or line.startswith("total")]
    assert [line.split()[1:3] for line in others] == [total.split()]


def test_what_is_in_4_bits_and_what_is_not_adds_up() -> None:
    plan = plan_of(Recipe(method="qlora"))
    nf4 = plan.to_json()["nf4"]
    assert nf4["parameters"] + nf4["other_parameters"] == plan.parameters_total
    assert nf4["bytes"] + nf4["other_bytes"] == plan.memory.weights
    assert "in 4 bits" in str(plan)
    assert "in 4 bits" not in str(plan_of(Recipe(method="lora")))


def test_few_steps_are_a_warning_with_the_change_that_gives_enough() -> None:
    few, cut_off = (plan_of(Recipe(epochs=epochs, batch_size=6)).warnings for epochs in (1, 9))  # the plan has 2 steps
    assert "2 steps in all: use --epochs 50 for at least 100" in few
    assert not any("steps in all" in text for text in cut_off)  # as with --max-steps 2


def test_the_check_of_the_written_model_counts_where_it_needs_more_than_a_step() -> None:
    options = {"method": "qlora", "dtype": "bfloat16", "optimizer": "adamw", "checkpointing": True,
               "micro_batch_tokens": 512, "probe_tokens": 100}  # fmt: skip
    plan = plan_memory(QWEN3_8B, 8_190_735_360, 43_646_976, **options)
    assert plan.total > 2 * 8_190_735_360 + plan.weights  # a second model in 16 bits besides that in 4 bits
    assert plan_memory(QWEN3_8B, 8_190_735_360, 43_646_976, **{**options, "probe_tokens": 0}).checking == 0
