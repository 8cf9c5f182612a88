"""Packed micro-batches through the model: gradients of a step, loss on held-out rows; halved when out of memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from aprnb.errors import OutOfMemory, is_out_of_memory, missing_memory
from aprnb.model.memory import release_freed
from aprnb.phases import INTERVAL_S, Pace, Phase
from aprnb.tuning.data.example import Examples
from aprnb.tuning.data.packing import pack
from aprnb.tuning.training.events import Event, Notice
from aprnb.tuning.training.loss import answer_loss
from aprnb.tuning.training.saving.state import capture_random, restore_random

T = TypeVar("T")
Indices = tuple[int, ...]


class Accumulated(NamedTuple):
    """A step's gradients are in the parameters; `loss` is the mean over its labelled tokens."""

    loss: float
    tokens: int
    labelled_tokens: int


class Batches:
    """Runs packed micro-batches of at most `token_limit` tokens; the limit is halved when memory is full."""

    def __init__(self, model: Any, device: torch.device, token_limit: int, compute_dtype: torch.dtype) -> None:
        self._model, self._device, self._limit, self._dtype = model, device, token_limit, compute_dtype

    def accumulate(
        self, examples: Examples, micro_batches: Sequence[Indices], phase: str, stopped: Callable[[], bool]
    ) -> Generator[Event, None, Accumulated | None]:
        """Adds up the gradients of one optimizer step; returns `Accumulated`, or None where `stopped()` turned true.

        `phase` names the step, of which a long one tells its micro-batches.

        The loss is divided by the labelled tokens of the whole step: the division into micro-batches does not matter.
        Out of memory, the step starts again with micro-batches of half the size, and a Notice says so.
        """
        labelled = planned_labels(examples, micro_batches)
        random = capture_random(self._device)

        def step(parts: Sequence[Indices]) -> Generator[Event, None, Accumulated | None]:
            restore_random(random, self._device)  # a repeated step draws the same dropout
            return self._backward(examples, parts, labelled, phase, stopped)

        return (yield from self._halving(examples, micro_batches, step))

    def evaluate(
        self, examples: Examples, micro_batches: Sequence[Indices] | None = None, phase: str = "evaluating"
    ) -> Generator[Event, None, float]:
        """Returns the mean loss over the labelled tokens of `examples`, or of those in `micro_batches`.

        Without gradients, in evaluation mode; the model is in its former mode afterwards.
        """
        chosen = micro_batches or [tuple(range(len(examples.examples)))]
        was_training = self._model.training
        self._model.eval()
        try:
            return (yield from self._halving(examples, chosen, lambda parts: self._mean_loss(examples, parts, phase)))
        finally:
            self._model.train(was_training)

    @contextmanager
    def precision(self) -> Iterator[None]:
        """16-bit computing where the recipe has it: float32 adapters then multiply in 16 bits, without copies."""
        from peft.helpers import disable_input_dtype_casting

        with ExitStack() as stack:
            if self._dtype != torch.float32:
                stack.enter_context(disable_input_dtype_casting(self._model))
                stack.enter_context(torch.autocast(self._device.type, self._dtype))
            yield

    def row(self, examples: Examples, indices: Indices) -> tuple[Tensor, Tensor, Tensor]:
        """`input_ids`, `position_ids` and the labels' mask of one packed row, each [T], on the device."""
        packed = pack(examples.examples, indices)
        arrays = packed.input_ids.astype(np.int64), packed.position_ids.astype(np.int64), packed.labels_mask
        ids, positions, labelled = (torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays)
        return ids, positions, labelled

    def _halving(
        self,
        examples: Examples,
        micro_batches: Sequence[Indices],
        work: Callable[[Sequence[Indices]], Generator[Event, None, T]],
    ) -> Generator[Event, None, T]:
        """Returns `work` of the micro-batches, cut to the limit; out of memory, again with half of it."""
        lengths = examples.lengths
        while True:
            parts = fit(micro_batches, lengths, self._limit)
            try:
                return (yield from work(parts))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                missing = missing_memory(error)
            # The error is released here, and with its frames the tensors of the failed pass.
            yield self._halve(parts, lengths, missing)

    def _backward(
        self, examples: Examples, parts: Sequence[Indices], labelled: int, phase: str, stopped: Callable[[], bool]
    ) -> Generator[Event, None, Accumulated | None]:
        self._model.zero_grad(set_to_none=True)
        total, tokens, counted = torch.zeros((), device=self._device), 0, 0
        pace = Pace(INTERVAL_S)
        for done, indices in enumerate(parts):
            if pace.is_due():
                yield Phase(phase, done, len(parts))
            if stopped():
                self._model.zero_grad(set_to_none=True)
                return None
            row = self.row(examples, indices)
            with self.precision():
                loss, count = answer_loss(self._model, *row)
                (loss / labelled).backward()
            total += loss.detach()  # on the device: item() below waits for it
            tokens, counted = tokens + len(row[0]), counted + count
        return Accumulated(total.item() / labelled, tokens, counted)

    def _mean_loss(self, examples: Examples, parts: Sequence[Indices], phase: str) -> Generator[Event, None, float]:
        total, counted = torch.zeros((), device=self._device), 0
        pace = Pace()
        for done, indices in enumerate(parts):
            if pace.is_due():
                yield Phase(phase, done, len(parts))
            with torch.no_grad(), self.precision():
                loss, count = answer_loss(self._model, *self.row(examples, indices))
            total, counted = total + loss, counted + count
        return total.item() / counted

    def _halve(self, parts: Sequence[Indices], lengths: Sequence[int], missing: str) -> Notice:
        self._model.zero_grad(set_to_none=True)
        release_freed(self._device)
        largest = max(sum(lengths[index] for index in indices) for indices in parts)
        self._limit = largest // 2
        if all(len(indices) == 1 for indices in parts):
            raise OutOfMemory(
                f"out of memory with one row of {largest} tokens in the micro-batch{missing}",
                action="try --gradient-checkpointing on, or start again with a smaller --max-seq-len or --quantize-nf4",
            )
        text = f"out of memory: micro-batches of at most {self._limit} tokens from now on; the step does not change"
        return Notice("warning", text)


def fit(micro_batches: Sequence[Indices], lengths: Sequence[int], limit: int) -> list[Indices]:
    """The micro-batches, cut where they exceed `limit` tokens; a longer row has one of its own."""
    parts: list[Indices] = []
    for indices in micro_batches:
        part: list[int] = []
        for index in indices:
            if part and sum(lengths[other] for other in part) + lengths[index] > limit:
                parts.append(tuple(part))
                part = []
            part.append(index)
        parts.append(tuple(part))
    return parts


def planned_labels(examples: Examples, micro_batches: Sequence[Indices]) -> int:
    """Labelled tokens of a step, by the data alone; a row's first token is predicted from nothing and never counts."""
    return sum(int(examples.examples[index].labels_mask[1:].sum()) for indices in micro_batches for index in indices)


def prompts_of(examples: Examples) -> Examples:
    """The same rows with everything labelled but the answers."""
    turned = tuple(replace(example, labels_mask=~example.labels_mask) for example in examples.examples)
    return replace(examples, examples=turned)
