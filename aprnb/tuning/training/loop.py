"""The training loop: one generator of events, independent of its listeners.

The arguments of `train`:

model      from `lora.attach` (lora, qlora) or `lora.prepare_full`, already on `device`
examples   the training rows; `schedule` holds indices into them
held_out   the rows to evaluate on, or None
identity   of recipe, data and base
is_fresh   whether the adapter, if there is one, is new: then it changes nothing before the first step
eval_every steps between evaluations; about ten evaluations in all unless given
forecast   the seconds that the plan expects, for the time left
state      from `state_files.load_state`, to resume after its step
interrupt  an entered `interrupt.Interrupt`
saving     when to save; a state is also saved at the lowest held-out loss so far, at the end, when the run is
           interrupted, and before it fails on a loss that is not finite
save       writes a `RunState` and returns its path
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aprnb.model.build import disable_cpu_repacking
from aprnb.phases import Phase
from aprnb.tuning.data.example import Examples
from aprnb.tuning.data.packing import Schedule
from aprnb.tuning.planning.identity import Identity, is_longer
from aprnb.tuning.planning.memory_use import peak_bytes
from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.planning.saving import SaveRule, evaluation_steps, read_save_rule
from aprnb.tuning.planning.seconds import Forecast
from aprnb.tuning.training import gates
from aprnb.tuning.training.batches import Batches, prompts_of
from aprnb.tuning.training.checkpointing import set_checkpointing
from aprnb.tuning.training.clock import Clock
from aprnb.tuning.training.events import EvalEvent, Event, Finished, Notice, StepEvent
from aprnb.tuning.training.failure import keeping_state, memory_for
from aprnb.tuning.training.interrupt import Interrupt
from aprnb.tuning.training.lora import adapted_layers
from aprnb.tuning.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from aprnb.tuning.training.saving.saver import Saver
from aprnb.tuning.training.saving.state import RunState, capture_random, restore, trainable_tensors

CHECKING_BASE = Phase("checking the base")
_PROBE_TOKENS, _LONG_S = 64, 1.0


def train(
    model: Any,
    examples: Examples,
    held_out: Examples | None,
    schedule: Schedule,
    recipe: SettledRecipe,
    *,
    device: torch.device,
    identity: Identity,
    is_fresh: bool = True,
    eval_every: int | None = None,
    forecast: Forecast | None = None,
    state: RunState | None = None,
    interrupt: Interrupt | None = None,
    saving: SaveRule | None = None,
    save: Callable[[RunState], Path] | None = None,
) -> Iterator[Event]:
    """Trains `model` in place and yields its events; the last one is `Finished`.

    Seeds torch from the recipe at the start. Raises GateError where a check fails and TrainingError where training
    cannot continue; the state after the last good step is saved before.
    """
    torch.manual_seed(recipe.seed)
    interrupt = interrupt or Interrupt()
    saver = Saver(save, saving or read_save_rule(None, len(schedule.steps)), interrupt)
    evaluations = evaluation_steps(len(schedule.steps), eval_every) if held_out else frozenset()
    expected = replace(forecast or Forecast(), evaluated=evaluations)
    run = Training(model, examples, schedule, recipe, device, identity, interrupt, saver, expected)
    yield from keeping_state(run, _events(run, held_out, evaluations, state, is_fresh))


def _events(
    run: Training, held_out: Examples | None, evaluations: frozenset[int], state: RunState | None, is_fresh: bool
) -> Iterator[Event]:
    yield CHECKING_BASE
    with memory_for("while the frozen weights were read"):
        frozen = gates.frozen_fingerprint(run.model)
    yield from (run.resume_from(state) if state else run.check_start(held_out, is_fresh))
    for step in range(run.step + 1, run.total_steps + 1):
        done = yield from run.take_step(step)
        if done is None:
            yield from run.save()
            yield Finished("interrupted", run.step)
            return
        yield done
        if held_out and step in evaluations:
            yield (yield from run.evaluate(held_out))
        if step == run.total_steps or run.saver.is_due(step):
            yield from run.save()
    yield CHECKING_BASE
    gates.check_frozen(frozen, gates.frozen_fingerprint(run.model))
    yield Finished("finished", run.total_steps)


class Training:
    """A run between two steps: model, optimizer, and what saves them."""

    def __init__(
        self,
        model: Any,
        examples: Examples,
        schedule: Schedule,
        recipe: SettledRecipe,
        device: torch.device,
        identity: Identity,
        interrupt: Interrupt,
        saver: Saver,
        forecast: Forecast,
    ) -> None:
        disable_cpu_repacking(model)
        set_checkpointing(model, recipe.gradient_checkpointing)
        self.model, self.recipe, self.device = model.train(), recipe, device
        self.total_steps, self.step = len(schedule.steps), 0
        self._examples, self._schedule, self._identity = examples, schedule, identity
        self._interrupt, self.saver = interrupt, saver
        self._optimizer = build_optimizer(model, recipe, device)
        self._batches = Batches(model, device, recipe.micro_batch_tokens, getattr(torch, recipe.dtype))
        self._clock, self._forecast = Clock(self.total_steps, forecast=forecast), forecast
        self._random: Mapping[str, Tensor] = capture_random(device)
        self.between_steps = self._takes_long = False

    @property
    def kept(self) -> str:
        """What of the run is on the disk."""
        return self.saver.kept

    def check_start(self, held_out: Examples | None, is_fresh: bool) -> Iterator[Event]:
        """Before step 1: a fresh adapter changes nothing, and the base is better than guessing on these rows."""
        first = self._schedule.steps[0].micro_batches
        self.model.eval()
        if is_fresh and adapted_layers(self.model):
            with memory_for("while the fresh adapter was compared with the base"), self._batches.precision():
                gates.check_adapter_is_neutral(self.model, *self._probe())
        self.model.train()
        probe, micro_batches = (held_out, None) if held_out else (self._examples, first)
        with self._clock.evaluations.timed() if held_out else nullcontext():
            loss = yield from self._batches.evaluate(probe, micro_batches, CHECKING_BASE.name)
        vocab_size, prompts = self.model.get_input_embeddings().weight.shape[0], loss
        if not gates.beats_guessing(loss, vocab_size):
            prompts = yield from self._batches.evaluate(prompts_of(probe), micro_batches, CHECKING_BASE.name)
        warning = gates.check_base_loss(loss, prompts, vocab_size)
        if warning:
            yield Notice("warning", warning)
        if held_out:
            yield EvalEvent(0, loss)

    def _probe(self) -> tuple[Tensor, Tensor]:
        """The beginning of the first row: enough to detect an adapter, few enough for a full matrix of logits."""
        first = self._schedule.steps[0].micro_batches[0][:1]
        ids, positions, _ = self._batches.row(self._examples, first)
        return ids[:_PROBE_TOKENS], positions[:_PROBE_TOKENS]

    def resume_from(self, state: RunState) -> Iterator[Event]:
        """Restores the saved state."""
        for damage in state.passed_over:
            yield Notice("warning", f"{damage}: the state before it is used")
        with memory_for("while the saved state was restored"):
            restore(state, self.model, self._optimizer, self.device)
        self.step, self._random = state.step, state.random
        self.saver.resume(state)
        self._clock = Clock(self.total_steps, state.elapsed_s, self._forecast)
        yield Notice("info", f"resuming after step {state.step} of {self.total_steps}")
        if is_longer(state.identity, self._identity, state.step):
            yield Notice("info", f"the finished run is trained on: the rates are those of {self.total_steps} steps")

    def take_step(self, step: int) -> Generator[Event, None, StepEvent | None]:
        """One optimizer step; returns its StepEvent, or None where it was interrupted before its end."""
        planned = self._schedule.steps[step - 1]
        recipe = self.recipe
        rate = learning_rate(step, self.total_steps, recipe.learning_rate, recipe.warmup_ratio, recipe.schedule)
        set_learning_rate(self._optimizer, rate)
        phase = f"step {step}"
        if self._clock.is_first or self._takes_long:
            yield Phase(phase)
        self._clock.start_step()

        result = yield from self._batches.accumulate(
            self._examples, planned.micro_batches, phase, lambda: self._interrupt.requested
        )
        if result is None:
            return None
        weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        grad_norm = float(nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm))

        gates.check_finite(step, result.loss, grad_norm)
        gates.check_labelled(step, result.labelled_tokens, planned.labelled_tokens)
        self._update(step)
        speed, remaining_s = self._clock.end_step(step, result.tokens)
        self._takes_long = result.tokens / speed > _LONG_S
        return StepEvent(
            step=step,
            total_steps=self.total_steps,
            loss=result.loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            tokens=result.tokens,
            labelled_tokens=result.labelled_tokens,
            tokens_per_s=speed,
            elapsed_s=self._clock.elapsed_s,
            memory_bytes=peak_bytes(self.device),
            remaining_s=remaining_s,
        )

    def _update(self, step: int) -> None:
        """The optimizer's step, before whose end weights and optimizer are no state to resume from."""
        self.between_steps = False
        moving = gates.targets_must_move(self.model) if step == 1 else nullcontext()
        with memory_for(f"in the optimizer's step {step}"), moving:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step, self._random, self.between_steps = step, capture_random(self.device), True

    def evaluate(self, held_out: Examples) -> Generator[Event, None, EvalEvent]:
        """Returns the EvalEvent of the weights as they are now."""
        with self._clock.evaluations.timed():
            loss = yield from self._batches.evaluate(held_out)
        gates.check_evaluation(self.step, loss)
        self.saver.evaluated(self.step, loss)
        return EvalEvent(self.step, loss)

    def save(self) -> Iterator[Event]:
        """Saves the run as of its last complete step."""
        if self.saver.would_save(self.step):
            yield Phase("saving the state")
        state = RunState(
            step=self.step,
            identity=self._identity,
            best=self.saver.best,
            elapsed_s=self._clock.elapsed_s,
            tensors=trainable_tensors(self.model),
            optimizer=self._optimizer.state_dict(),
            random=self._random,
        )
        gates.check_savable(state.step, {"weights": state.tensors, "optimizer": state.optimizer})
        with memory_for(f"while the state after step {state.step} was saved"), self._clock.saves.timed():
            yield from self.saver.save(state)
