"""A run from the first evaluation to the last event, and what must not change its numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import transformers

from aprnb.errors import TrainingError, UsageProblem
from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.planning.saving import evaluation_steps
from aprnb.tuning.training.events import EvalEvent, Finished, StepEvent, mean_tokens_per_s, to_metrics_row
from aprnb.tuning.training.lora import prepare_full
from aprnb.tuning.training.optimizer import decay_groups, learning_rate
from aprnb_tests.tiny import losses, schedule_of, tiny_examples, tiny_model, tiny_nf4_model, tiny_run


def test_a_run_evaluates_steps_and_finishes() -> None:
    events = list(tiny_run(eval_every=3).events())
    assert [event.step for event in events if isinstance(event, StepEvent)] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events if isinstance(event, EvalEvent)] == [0, 3, 6]
    assert events[-1] == Finished("finished", 6)


def test_full_training_memorises_the_rows() -> None:
    run = tiny_run(
        schedule_of(tiny_examples(), *32 * [((0, 1, 2, 3),)]), held_out=False, method="full", learning_rate=5e-3
    )
    run.model = prepare_full(tiny_model())
    found = losses(list(run.events()))
    assert found[-1] < 0.1 * found[0]


def test_an_adapter_learns_what_the_frozen_head_allows() -> None:
    # Untrained embeddings of deviation 0.02, tied, 64 wide: no logit exceeds about 1.3, no loss falls below about 3.2.
    run = tiny_run(schedule_of(tiny_examples(), *20 * [((0, 1, 2, 3),)]), held_out=False, learning_rate=1e-2, rank=16)
    found = losses(list(run.events()))
    assert found[-1] < found[0] - 0.5


def test_the_same_recipe_gives_the_same_numbers() -> None:
    assert losses(list(tiny_run(lora_dropout=0.1).events())) == losses(list(tiny_run(lora_dropout=0.1).events()))


def test_the_seed_decides_the_dropout() -> None:
    runs = [tiny_run(lora_dropout=0.5, held_out=False) for _ in range(2)]
    runs[1].recipe = dataclasses.replace(runs[1].recipe, seed=7)  # the adapters begin as those of the other
    one, other = (losses(list(run.events())) for run in runs)
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_four_micro_batches_are_the_same_step_as_one() -> None:
    examples = tiny_examples()
    one = schedule_of(examples, *3 * [((0, 1, 2, 3, 4, 5, 6, 7),)])
    four = schedule_of(examples, *3 * [((0,), (1, 2, 3, 4), (5,), (6, 7))])
    whole, parts = (list(tiny_run(schedule, held_out=False).events()) for schedule in (one, four))
    # Rows of different length weigh by their labels; float32 sums in another order differ in the last digits.
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    norms = [[event.grad_norm for event in events if isinstance(event, StepEvent)] for events in (whole, parts)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_steps_are_made_in_training_mode_and_evaluations_are_not() -> None:
    run = tiny_run(eval_every=1)
    seen: list[tuple[bool, bool]] = []
    decoder = run.model.get_base_model().model
    decoder.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    list(run.events())
    assert set(seen) == {(True, True), (False, False)}


@pytest.mark.parametrize("model", [tiny_model, tiny_nf4_model])
def test_evaluations_do_not_change_the_training(model: Any) -> None:
    with_evaluations = losses(list(tiny_run(model=model(), eval_every=1).events()))
    without = losses(list(tiny_run(model=model(), held_out=False).events()))
    assert with_evaluations == without


def test_gradient_checkpointing_changes_no_number() -> None:
    on, off = (losses(list(tiny_run(gradient_checkpointing=word).events())) for word in ("on", "off"))
    assert on == pytest.approx(off, rel=1e-6)


def test_gradient_checkpointing_is_switched_as_the_recipe_says() -> None:
    for word in ("on", "off"):
        run = tiny_run(gradient_checkpointing=word)
        list(run.events())
        flags = {layer.gradient_checkpointing for layer in run.model.get_base_model().model.layers}
        assert flags == {word == "on"}


def test_a_class_that_cannot_recompute_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(gradient_checkpointing="on")
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if hasattr(run.model.get_base_model(), name):
            monkeypatch.setattr(type(run.model.get_base_model()), name, lambda *_, **__: None)
    with pytest.raises(TrainingError, match="Qwen3ForCausalLM cannot recompute activations"):
        list(run.events())


def test_all_weights_can_be_trained() -> None:
    run = tiny_run(method="full", learning_rate=1e-3, dtype="bfloat16")
    run.model = prepare_full(tiny_model())
    events = list(run.events())
    assert run.model.lm_head.weight.dtype == torch.float32
    assert losses(events)[-1] < losses(events)[0]


def test_sixteen_bit_computing_stays_near_float32() -> None:
    exact = losses(list(tiny_run().events()))
    model = tiny_model().bfloat16()
    rounded = losses(list(tiny_run(model=model, dtype="bfloat16").events()))
    # bfloat16 has 8 bits of precision: about 0.4 % per operation.
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_computes_in_the_dtype_of_its_recipe(dtype: torch.dtype) -> None:
    run = tiny_run(schedule_of(tiny_examples(), ((0, 1),)), held_out=False, dtype=str(dtype).removeprefix("torch."))
    seen: set[torch.dtype] = set()
    projection = run.model.get_base_model().model.layers[0].mlp.up_proj
    projection.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    list(run.events())
    assert seen == {dtype}


def test_the_step_counts_real_tokens_and_their_labels() -> None:
    run = tiny_run(schedule_of(tiny_examples(), ((0, 1), (2,))), held_out=False)
    step = next(event for event in run.events() if isinstance(event, StepEvent))
    assert step.tokens == sum(run.examples.lengths[:3])
    assert step.labelled_tokens == sum(run.examples.labelled[:3])
    assert step.memory_bytes > 0


def test_a_loss_that_is_not_finite_stops_the_run_before_the_optimizer_step() -> None:
    run = tiny_run(held_out=False)
    events = run.events()
    before: dict[str, torch.Tensor] = {}
    with pytest.raises(TrainingError, match="step 3: loss nan"):
        for event in events:
            if isinstance(event, StepEvent) and event.step == 2:
                before = {n: p.detach().clone() for n, p in run.model.named_parameters() if "lora_" in n}
                run.model.get_base_model().model.norm.weight.data.fill_(math.nan)
    assert before
    assert all(torch.equal(before[n], p) for n, p in run.model.named_parameters() if "lora_" in n)


def test_an_eight_bit_optimizer_is_rejected_on_the_cpu() -> None:
    with pytest.raises(UsageProblem, match="adamw8bit on cpu; expected a CUDA device"):
        list(tiny_run(optimizer="adamw8bit").events())


def test_norms_and_biases_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    decayed, plain = decay_groups(model.named_parameters(), 0.1)
    assert ([p.ndim for p in decayed["params"]], decayed["weight_decay"]) == ([2], 0.1)
    assert ([p.ndim for p in plain["params"]], plain["weight_decay"]) == ([1, 1, 1], 0.0)


@pytest.mark.parametrize(
    ("schedule", "judge"),
    [
        ("cosine", lambda one: transformers.get_cosine_schedule_with_warmup(one, 10, 100)),
        ("linear", lambda one: transformers.get_linear_schedule_with_warmup(one, 10, 100)),
        ("constant", lambda one: transformers.get_constant_schedule_with_warmup(one, 10)),
        ("wsd", lambda one: transformers.get_wsd_schedule(one, 10, 20, num_training_steps=100, decay_type="1-sqrt")),
    ],
)
def test_after_the_warm_up_the_rate_is_that_of_transformers(schedule: str, judge: Any) -> None:
    """Which begins with a rate of 0, so that its warm-up is a step behind; from step 11 on its count is ours."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = judge(optimizer)
    for step in range(1, 101):
        if step > 10:
            assert learning_rate(step, 100, 0.5, 0.1, schedule) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
    assert learning_rate(1, 1, 1.0, 0.0, schedule) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_the_loop_follows_the_schedule(schedule: str) -> None:
    run = tiny_run(held_out=False)
    run.recipe = dataclasses.replace(run.recipe, schedule=schedule)
    events = list(run.events())
    rates = [event.learning_rate for event in events if isinstance(event, StepEvent)]
    assert rates == [learning_rate(step, 6, 5e-3, 0.03, schedule) for step in range(1, 7)]
    assert len({learning_rate(6, 6, 1.0, 0.03, each) for each in ("cosine", "linear", "constant", "wsd")}) == 4


def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine() -> None:
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    # Step 56 is halfway between 11 and 101, where the cosine is one half.
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


def test_even_a_single_step_has_a_rate() -> None:
    assert learning_rate(1, 1, 1.0, 0.03) == 1.0
    assert learning_rate(1, 1, 1.0, 0.0) == 1.0


def test_about_ten_evaluations_and_one_at_the_end() -> None:
    assert sorted(evaluation_steps(95, None)) == [10, 20, 30, 40, 50, 60, 70, 80, 90, 95]
    assert sorted(evaluation_steps(3, None)) == [1, 2, 3]
    assert sorted(evaluation_steps(10, 4)) == [4, 8, 10]


def test_metrics_rows_have_the_keys_that_scripts_rely_on() -> None:
    events = tiny_run().events()
    rows = [to_metrics_row(event) for event in events if isinstance(event, StepEvent | EvalEvent)]
    step_keys = {"step", "loss", "learning_rate", "grad_norm", "tokens", "labelled_tokens", "tokens_per_s", "elapsed_s"}
    assert {frozenset(row) for row in rows} == {frozenset(step_keys), frozenset({"step", "eval_loss"})}


def test_the_mean_speed_leaves_the_first_step_out() -> None:
    rows = [
        {"tokens": 100, "tokens_per_s": 1.0},
        {"tokens": 100, "tokens_per_s": 100.0},
        {"tokens": 300, "tokens_per_s": 100.0},
    ]
    # 400 tokens in 1 s + 3 s.
    assert mean_tokens_per_s(rows) == pytest.approx(100.0)
    assert mean_tokens_per_s(rows[:1]) == 1.0
    assert mean_tokens_per_s([]) is None


def test_a_settled_recipe_is_not_made_with_open_choices() -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        SettledRecipe(method="lora", dtype="float32", gradient_checkpointing="off")
