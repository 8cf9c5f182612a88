"""The training loop: one generator of events, independent of its listeners.

The arguments of `train`:

model      from `lora.attach` (lora, qlora) or `lora.prepare_full`, already on `device`
examples   the training rows; `schedule` holds indices into them
held_out   the rows to evaluate on, or None
identity   of recipe, data and base
eval_every steps between evaluations; about ten evaluations in all unless given
state      from `state.load_state`, to resume after its step
interrupt  an entered `interrupt.Interrupt`
save       writes a `RunState` and returns its path; called at each evaluation, at the end, when the run is
           interrupted and before it fails on a loss that is not finite
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aprnb.errors import TrainingError
from aprnb.model.build import disable_cpu_repacking
from aprnb.tuning.data.examples import Examples
from aprnb.tuning.data.packing import Schedule
from aprnb.tuning.planning.device import memory_in_use
from aprnb.tuning.planning.identity import Identity
from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.training import gates
from aprnb.tuning.training.batches import Batches, prompts_of
from aprnb.tuning.training.clock import Clock
from aprnb.tuning.training.events import EvalEvent, Event, Finished, Notice, Saved, StepEvent, to_metrics_row
from aprnb.tuning.training.interrupt import Interrupt
from aprnb.tuning.training.lora import adapted_layers
from aprnb.tuning.training.loss import causal_model
from aprnb.tuning.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from aprnb.tuning.training.state import RunState, capture_random, restore, trainable_tensors

E = TypeVar("E", StepEvent, EvalEvent)
_PROBE_TOKENS = 64


def train(
    model: Any,
    examples: Examples,
    held_out: Examples | None,
    schedule: Schedule,
    recipe: SettledRecipe,
    *,
    device: torch.device,
    identity: Identity,
    eval_every: int | None = None,
    state: RunState | None = None,
    interrupt: Interrupt | None = None,
    save: Callable[[RunState], Path] | None = None,
) -> Iterator[Event]:
    """Trains `model` in place and yields its events; the last one is `Finished`.

    Seeds torch from the recipe at the start. Raises GateError where a check fails and TrainingError where training
    cannot continue; the state after the last good step is saved before.
    """
    torch.manual_seed(recipe.seed)
    run = Training(model, examples, schedule, recipe, device, identity, save)
    evaluations = evaluation_steps(run.total_steps, eval_every) if held_out else frozenset()
    frozen = gates.frozen_fingerprint(model)
    if state is None:
        yield from run.check_start(held_out)
    else:
        yield run.resume_from(state)
    for step in range(run.step + 1, run.total_steps + 1):
        done = yield from run.take_step(step, interrupt)
        if done is None:
            yield from run.save()
            yield Finished("interrupted", run.step)
            return
        yield done
        if held_out and step in evaluations:
            yield (yield from run.evaluate(held_out))
        if step in evaluations or step == run.total_steps:
            yield from run.save()
    gates.check_frozen(frozen, gates.frozen_fingerprint(model))
    yield Finished("finished", run.total_steps)


class Training:
    """A run between two steps: model, optimizer, the metrics so far, and the function that saves them."""

    def __init__(
        self,
        model: Any,
        examples: Examples,
        schedule: Schedule,
        recipe: SettledRecipe,
        device: torch.device,
        identity: Identity,
        save: Callable[[RunState], Path] | None,
    ) -> None:
        disable_cpu_repacking(model)
        set_checkpointing(model, recipe.gradient_checkpointing)
        self.model, self.recipe, self.device = model.train(), recipe, device
        self.total_steps, self.step = len(schedule.steps), 0
        self._examples, self._schedule, self._identity, self._save = examples, schedule, identity, save
        self._optimizer = build_optimizer(model, recipe, device)
        self._batches = Batches(model, device, recipe.micro_batch_tokens, getattr(torch, recipe.dtype))
        self._metrics: list[Mapping[str, Any]] = []
        self._clock = Clock(self.total_steps)
        self._random: Mapping[str, Tensor] = capture_random(device)

    def check_start(self, held_out: Examples | None) -> Iterator[Event]:
        """Before step 1: a fresh adapter changes nothing, and the base is better than guessing on these rows."""
        first = self._schedule.steps[0].micro_batches
        self.model.eval()
        if adapted_layers(self.model):
            with self._batches.precision():
                gates.check_adapter_is_neutral(self.model, *self._probe())
        self.model.train()
        probe, micro_batches = (held_out, None) if held_out else (self._examples, first)
        loss = yield from self._batches.evaluate(probe, micro_batches)
        vocab_size, prompts = self.model.get_input_embeddings().weight.shape[0], loss
        if not gates.beats_guessing(loss, vocab_size):
            prompts = yield from self._batches.evaluate(prompts_of(probe), micro_batches)
        warning = gates.check_base_loss(loss, prompts, vocab_size)
        if warning:
            yield Notice("warning", warning)
        if held_out:
            yield self._noted(EvalEvent(0, loss))

    def _probe(self) -> tuple[Tensor, Tensor]:
        """The beginning of the first row: enough to detect an adapter, few enough for a full matrix of logits."""
        first = self._schedule.steps[0].micro_batches[0][:1]
        ids, positions, _ = self._batches.row(self._examples, first)
        return ids[:_PROBE_TOKENS], positions[:_PROBE_TOKENS]

    def resume_from(self, state: RunState) -> Notice:
        """Restores the saved state."""
        restore(state, self.model, self._optimizer, self.device)
        self.step, self._metrics, self._random = state.step, list(state.metrics), state.random
        self._clock = Clock(self.total_steps, state.elapsed_s)
        return Notice("info", f"resuming after step {state.step} of {self.total_steps}")

    def take_step(self, step: int, interrupt: Interrupt | None) -> Generator[Event, None, StepEvent | None]:
        """One optimizer step; returns its StepEvent, or None where it was interrupted before its end."""
        planned = self._schedule.steps[step - 1]
        recipe, optimizer = self.recipe, self._optimizer
        rate = learning_rate(step, self.total_steps, recipe.learning_rate, recipe.warmup_ratio)
        set_learning_rate(optimizer, rate)
        self._clock.start_step()

        result = yield from self._batches.accumulate(
            self._examples, planned.micro_batches, lambda: interrupt is not None and interrupt.requested
        )
        if result is None:
            return None
        weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        grad_norm = float(nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm))

        yield from self._check_finite(step, result.loss, grad_norm)
        gates.check_labelled(step, result.labelled_tokens, planned.labelled_tokens)
        with gates.targets_must_move(self.model) if step == 1 else nullcontext():
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        speed, remaining_s = self._clock.end_step(step, result.tokens)
        self.step, self._random = step, capture_random(self.device)
        return self._noted(
            StepEvent(
                step=step,
                total_steps=self.total_steps,
                loss=result.loss,
                learning_rate=rate,
                grad_norm=grad_norm,
                tokens=result.tokens,
                labelled_tokens=result.labelled_tokens,
                tokens_per_s=speed,
                elapsed_s=self._clock.elapsed_s,
                memory_bytes=memory_in_use(self.device),
                remaining_s=remaining_s,
            )
        )

    def evaluate(self, held_out: Examples) -> Generator[Event, None, EvalEvent]:
        """Returns the EvalEvent of the weights as they are now."""
        loss = yield from self._batches.evaluate(held_out)
        return self._noted(EvalEvent(self.step, loss))

    def save(self) -> Iterator[Event]:
        """Saves the run as of its last complete step."""
        if self._save is None:
            return
        state = RunState(
            step=self.step,
            identity=self._identity,
            metrics=tuple(self._metrics),
            elapsed_s=self._clock.elapsed_s,
            tensors=trainable_tensors(self.model),
            optimizer=self._optimizer.state_dict(),
            random=self._random,
        )
        yield Saved(self.step, str(self._save(state)))

    def _check_finite(self, step: int, loss: float, grad_norm: float) -> Iterator[Event]:
        try:
            gates.check_finite(step, loss, grad_norm)
        except TrainingError:
            yield from self.save()
            raise

    def _noted(self, event: E) -> E:
        self._metrics.append(to_metrics_row(event))
        return event


def evaluation_steps(total_steps: int, every: int | None) -> frozenset[int]:
    """The steps after which held-out rows are evaluated: each `every`-th (about ten in all), and the last."""
    stride = every or max(1, math.ceil(total_steps / 10))
    return frozenset((*range(stride, total_steps + 1, stride), total_steps))


def set_checkpointing(model: Any, wanted: str) -> None:
    """Switches recomputing of activations on or off, and checks that the model did so."""
    base = causal_model(model)
    # transformers renamed these from gradient_ to activation_ and warns about the old names.
    prefix = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    if wanted == "on":
        getattr(base, f"{prefix}_checkpointing_enable")(**{f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}})
    else:
        getattr(base, f"{prefix}_checkpointing_disable")()
    if getattr(base, f"is_{prefix}_checkpointing") != (wanted == "on"):
        found = f"{type(base).__name__} cannot recompute activations"
        raise TrainingError(found, action="give --gradient-checkpointing off")
