"""A run's numbers are those of the same steps in plain torch, row by row; `test_reference.py` compares a whole file."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from aprnb.tuning.data.example import Examples
from aprnb.tuning.training.events import EvalEvent, StepEvent
from aprnb_tests.tiny import schedule_of, tiny_examples, tiny_run

PEAK, DECAY, CLIP = 5e-3, 0.5, 0.25
STEPS = 5
WARMUP = 2  # 0.3 of 5 steps, rounded up


def rate(step: int) -> float:
    if step <= WARMUP:
        return PEAK * step / WARMUP
    return PEAK * 0.5 * (1 + math.cos(math.pi * (step - WARMUP - 1) / (STEPS - WARMUP)))


def mean_loss(model: Any, examples: Examples, indices: Any) -> torch.Tensor:
    """Over the labels of all rows, each row alone."""
    losses, labels = [], 0
    for index in indices:
        example = examples.examples[index]
        ids = torch.from_numpy(example.input_ids).long()
        wanted = torch.where(torch.from_numpy(example.labels_mask), ids, -100)[1:]
        losses.append(cross_entropy(model(ids[None]).logits[0, :-1], wanted, ignore_index=-100, reduction="sum"))
        labels += int((wanted != -100).sum())
    return torch.stack(losses).sum() / labels


def test_a_run_is_that_of_plain_torch() -> None:
    schedule = schedule_of(tiny_examples(), *STEPS * [((0, 1, 2), (3,), (4, 5, 6))])
    run = tiny_run(schedule, learning_rate=PEAK, weight_decay=DECAY, max_grad_norm=CLIP, warmup_ratio=0.3, eval_every=2)
    model = copy.deepcopy(run.model)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY, foreach=False)
    assert run.held_out
    held_out = run.held_out
    every = range(len(held_out.examples))
    evaluations, steps = [mean_loss(model, held_out, every).item()], []
    for step in range(1, STEPS + 1):
        loss = mean_loss(model, run.examples, range(7))
        loss.backward()
        norm = math.sqrt(sum(float(one.grad.square().sum()) for one in trained if one.grad is not None))
        for one in trained:
            assert one.grad is not None
            one.grad.mul_(min(1.0, CLIP / norm))
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
        optimizer.zero_grad()
        steps.append((loss.item(), norm, rate(step)))
        if step in (2, 4, 5):
            evaluations.append(mean_loss(model, held_out, every).item())
    assert min(norm for _, norm, _ in steps) > CLIP, "every gradient is clipped"

    events = list(run.events())
    found = [(e.loss, e.grad_norm, e.learning_rate) for e in events if isinstance(e, StepEvent)]
    # float32 has 7 digits, and both add in another order.
    assert [one for step in found for one in step] == pytest.approx([one for step in steps for one in step], rel=2e-5)
    assert [e.eval_loss for e in events if isinstance(e, EvalEvent)] == pytest.approx(evaluations, rel=5e-6)
    ours = [one for one in run.model.parameters() if one.requires_grad]
    moved = torch.cat([(one - other).abs().flatten() for one, other in zip(ours, trained, strict=True)])
    # AdamW divides a gradient by its own size: where it is almost zero, rounding decides its sign.
    assert moved.quantile(0.99).item() < 1e-3 * PEAK
