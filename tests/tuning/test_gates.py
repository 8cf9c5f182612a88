"""Each gate closes on the failure it is there for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from aprnb.errors import GateError, TrainingError
from aprnb.tuning.training import gates
from aprnb.tuning.training.batches import prompts_of
from aprnb.tuning.training.events import Notice, StepEvent
from aprnb.tuning.training.lora import adapted_layers, attach
from aprnb_tests.tiny import tiny_examples, tiny_model, tiny_nf4_model, tiny_recipe, tiny_run

IDS, POSITIONS = torch.arange(2, 12), torch.arange(10)


def first_layer(model: Any) -> Any:
    return next(iter(adapted_layers(model).values()))


@pytest.mark.parametrize("build", [tiny_model, tiny_nf4_model])
def test_a_fresh_adapter_leaves_the_logits_as_they_are_bit_for_bit(build: Any) -> None:
    gates.check_adapter_is_neutral(attach(build(), tiny_recipe()).eval(), IDS, POSITIONS)


def test_an_adapter_that_is_not_fresh_is_rejected_before_the_first_step() -> None:
    run = tiny_run()
    first_layer(run.model).lora_B["default"].weight.data.fill_(1e-3)
    with pytest.raises(GateError, match="the fresh adapter changes the model's logits"):
        list(run.events())


def test_a_base_worse_than_guessing_is_rejected() -> None:
    run = tiny_run()
    with torch.no_grad():
        run.model.get_base_model().model.norm.weight.mul_(100)
    with pytest.raises(
        GateError, match=r"base model's loss is .* on the answers and .* on the prompts.*guessing among 96 tokens"
    ):
        list(run.events())


def test_a_base_loss_that_is_not_finite_is_rejected() -> None:
    with pytest.raises(GateError):
        gates.check_base_loss(math.nan, 1.0, 96)


def test_answers_less_likely_than_chance_are_training_and_prompts_too_are_a_broken_base() -> None:
    # 1.1 ln 96 = 5.02.
    assert "the answers are new to it" in (gates.check_base_loss(9.0, 2.0, 96) or "")
    with pytest.raises(GateError, match=r"9\.000 on the answers and 5\.100 on the prompts"):
        gates.check_base_loss(9.0, 5.1, 96)


def test_the_prompts_of_rows_are_all_that_is_not_an_answer() -> None:
    rows = tiny_examples()
    for row, prompt in zip(rows.examples, prompts_of(rows).examples, strict=True):
        assert (row.labels_mask ^ prompt.labels_mask).all()


def test_a_base_hardly_better_than_guessing_gets_a_warning() -> None:
    # ln 96 = 4.564; 0.8 of it is 3.651.
    assert "the checkpoint is not trained" in (gates.check_base_loss(3.7, 3.7, 96) or "")
    assert gates.check_base_loss(3.6, 3.6, 96) is None
    assert any(isinstance(event, Notice) and event.kind == "warning" for event in tiny_run().events())


def test_a_target_outside_the_graph_is_found_in_step_1() -> None:
    run = tiny_run()
    layer = first_layer(run.model)
    layer.lora_B["default"].register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(GateError, match=r"no gradient reaches .*q_proj\.lora_B"):
        list(run.events())


def test_a_matrix_that_the_optimizer_does_not_know_is_found_in_step_1() -> None:
    run = tiny_run(learning_rate=0.0)
    with pytest.raises(GateError, match=r"step 1 did not change .* and 11 more"):
        list(run.events())


def test_a_gradient_of_zeros_is_found_in_step_1() -> None:
    run = tiny_run()
    first_layer(run.model).lora_B["default"].weight.register_hook(torch.zeros_like)
    with pytest.raises(GateError, match=r"no gradient reaches .*q_proj\.lora_B"):
        list(run.events())


def test_nothing_trainable_is_rejected() -> None:
    run = tiny_run(held_out=False)
    run.model.get_base_model().requires_grad_(False)
    with pytest.raises((GateError, ValueError)):
        list(run.events())


def test_a_frozen_base_that_changed_is_found_at_the_end() -> None:
    run = tiny_run()
    norm = run.model.get_base_model().model.norm.weight
    with pytest.raises(GateError, match="the frozen base changed"):
        for event in run.events():
            if isinstance(event, StepEvent) and event.step == 3:
                norm.data[5] += 1e-6


@pytest.mark.parametrize("position", [0, 77_777, 199_999])
def test_the_fingerprint_sees_a_single_bit_of_a_large_tensor(position: int) -> None:
    model = torch.nn.Linear(1000, 200, bias=False).bfloat16().requires_grad_(False)
    before = gates.frozen_fingerprint(model)
    bits = model.weight.data.view(-1).view(torch.int16)
    bits[position] ^= 1
    assert gates.frozen_fingerprint(model) != before


def test_the_fingerprint_sees_the_scales_of_quantised_weights() -> None:
    model = tiny_nf4_model()
    before = gates.frozen_fingerprint(model)
    model.model.layers[0].mlp.up_proj.weight.quant_state.absmax[3] += 1
    assert gates.frozen_fingerprint(model) != before


def test_labels_that_were_lost_are_found() -> None:
    gates.check_labelled(1, 19, 19)
    with pytest.raises(GateError, match="step 1 trained 18 labelled tokens; expected 19"):
        gates.check_labelled(1, 18, 19)
    with pytest.raises(GateError):
        gates.check_labelled(1, 0, 0)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_step_with_a_loss_that_is_not_finite_is_named(loss: float, norm: float) -> None:
    """The run adds which state is saved: test_not_finite.py."""
    with pytest.raises(TrainingError, match=r"step 7: loss .*expected finite numbers\n.*lower --learning-rate"):
        gates.check_finite(7, loss, norm)


def test_the_repacking_for_avx512_is_switched_off_in_every_4_bit_layer() -> None:
    run = tiny_run(model=tiny_nf4_model())
    list(run.events())
    layers = [module for module in run.model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
