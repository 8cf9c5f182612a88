"""A run's numbers are those of a training written without aprnb: each step, each evaluation, the final weights.

Tolerances: both compute in float32 (7 digits) and add in another order (`eager` attention and whole logits there, SDPA
and chunks here): losses agreed within 4e-7 and gradient norms within 5e-6, and some 6 times as much is allowed. AdamW
divides a gradient by its own size: where it is almost zero, rounding decides its sign. So weights are compared as parts
of the largest step, the learning rate: 999 of 1,000 were within 1e-4 (allowed: 5e-4), the worst within 0.05 (0.2).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import aprnb
from aprnb.tuning.training.events import EvalEvent, StepEvent
from aprnb_tests import reference_training
from aprnb_tests.reference_training import Messages, Outcome, Settings

SETTINGS = {
    "lora": Settings("lora", rank=6, alpha=21.0, lora_dropout=0.2, weight_decay=0.7, max_grad_norm=4.5),
    "qlora": Settings("qlora", rank=4, alpha=2.0, lora_dropout=0.1, weight_decay=0.3, max_grad_norm=0.8, seed=8),
    "full": Settings("full", learning_rate=4e-4, weight_decay=0.9, max_grad_norm=9.0, seed=9),
}


def multi_turn_rows(rows: Path) -> list[Messages]:
    """Conversations of one to three turns, some with a system text, one that ends with a question."""
    pairs = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
    talks: list[Messages] = []
    for number in range(17):
        talk: Messages = [{"role": "system", "content": "Answer as a cow."}] if number % 4 == 1 else []
        for pair in pairs[3 * number : 3 * number + 1 + number % 3]:
            talk += [
                {"role": "user", "content": pair["instruction"]},
                {"role": "assistant", "content": pair["response"]},
            ]
        talks.append(talk)
    talks[5].append({"role": "user", "content": "And then?"})
    return talks


@pytest.fixture(scope="module")
def rows(repository: Path) -> list[Messages]:
    return multi_turn_rows(repository / "notebooks" / "ask-the-cow.jsonl")


@pytest.fixture(scope="module")
def base(pocket_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model as a folder, its weights moved off the values that 16 bits can hold."""
    folder = tmp_path_factory.mktemp("reference") / "base"
    aprnb.convert(pocket_qwen3, folder, dtype="f32")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


class Compared(NamedTuple):
    """The same run twice: as it should be, the events of ours, and its weights under PEFT's names."""

    settings: Settings
    wanted: Outcome
    steps: list[StepEvent]
    evaluations: list[EvalEvent]
    weights: dict[str, torch.Tensor]
    truncated: int


@pytest.fixture(scope="module", params=list(SETTINGS))
def compared(request: Any, base: Path, rows: list[Messages], tmp_path_factory: pytest.TempPathFactory) -> Compared:
    settings: Settings = SETTINGS[request.param]
    output = tmp_path_factory.mktemp("run") / "out.apr"
    events: list[Any] = []
    options = {name: value for name, value in asdict(settings).items() if value is not None}
    options |= {"output_dtype": "F32"} if settings.method == "full" else {"adapter_only": True}
    run = aprnb.finetune(
        base, data=[{"messages": row} for row in rows], output=output, device="cpu", dtype="float32",
        listener=events.append, **options,
    )  # fmt: skip
    if run.adapter is not None:
        weights = load_file(run.adapter / "adapter_model.safetensors")
    else:
        with aprnb.open(output) as written:
            weights = {name: torch.from_numpy(written[name]) for name in written if name != "lm_head.weight"}
    return Compared(
        settings, reference_training.train(base, rows, settings),
        [event for event in events if isinstance(event, StepEvent)],
        [event for event in events if isinstance(event, EvalEvent)], weights, run.plan.rows_truncated,
    )  # fmt: skip


def test_the_rows_and_settings_exercise_what_they_should(compared: Compared) -> None:
    """Several micro-batches in a step; some gradients are clipped and some are not; a conversation is cut."""
    norms = [step["grad_norm"] for step in compared.wanted.steps]
    assert min(norms) < compared.settings.max_grad_norm < max(norms)
    assert max(step["tokens"] for step in compared.wanted.steps) > 2 * compared.settings.micro_batch_tokens
    assert len(compared.wanted.steps) == 9
    assert compared.truncated > 0


def test_every_step_has_the_reference_loss(compared: Compared) -> None:
    assert [event.loss for event in compared.steps] == pytest.approx(
        [step["loss"] for step in compared.wanted.steps], rel=3e-6
    )


def test_every_step_has_the_reference_gradient_norm(compared: Compared) -> None:
    assert [event.grad_norm for event in compared.steps] == pytest.approx(
        [step["grad_norm"] for step in compared.wanted.steps], rel=3e-5
    )


@pytest.mark.parametrize("name", ["learning_rate", "tokens", "labelled_tokens"])
def test_every_step_has_the_reference_rate_and_counts(compared: Compared, name: str) -> None:
    assert [getattr(event, name) for event in compared.steps] == pytest.approx(
        [step[name] for step in compared.wanted.steps], rel=1e-12
    )


def test_every_evaluation_has_the_reference_loss(compared: Compared) -> None:
    found = {event.step: event.eval_loss for event in compared.evaluations}
    assert found == pytest.approx(compared.wanted.eval_losses, rel=3e-6)


def test_the_final_weights_are_the_reference_ones(compared: Compared) -> None:
    wanted, rate = compared.wanted.weights, compared.settings.learning_rate
    assert compared.weights.keys() == wanted.keys()
    differences = torch.cat([(compared.weights[name] - wanted[name]).abs().flatten() / rate for name in wanted])
    assert differences.quantile(0.999).item() < 5e-4
    assert differences.max().item() < 0.2
