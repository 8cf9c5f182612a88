"""Which rows form a step and a micro-batch, and rows laid end to end without padding (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aprnb.errors import DataError

if TYPE_CHECKING:
    from aprnb.tuning.data.example import Example, IntArray, Mask


@dataclass(frozen=True)
class Step:
    """One optimizer step: indices of examples, one tuple per micro-batch; tokens are those of all of them."""

    micro_batches: tuple[tuple[int, ...], ...]
    epoch: int
    tokens: int
    labelled_tokens: int


@dataclass(frozen=True)
class Schedule:
    """Every step of a run, in order."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Packed:
    """Documents end to end: [T] each. `labels_mask[t]` says that token t is to be predicted (from t - 1)."""

    input_ids: IntArray
    position_ids: IntArray
    labels_mask: Mask
    document_lengths: tuple[int, ...]


def build_schedule(
    lengths: Sequence[int],
    labelled: Sequence[int],
    epochs: int,
    batch_size: int,
    micro_batch_tokens: int,
    max_steps: int | None,
    seed: int,
) -> Schedule:
    """Every example once per epoch, shuffled per epoch, `batch_size` examples per step.

    A step's examples are packed, longest first, into the first micro-batch with room, of at most `micro_batch_tokens`
    tokens each; a longer example has one of its own. An epoch's last step takes what is left. `max_steps` cuts
    the run off, it never lengthens it.
    """
    if not lengths:
        raise DataError("no examples to train on")
    per_epoch = -(-len(lengths) // batch_size)
    wanted = per_epoch * epochs if max_steps is None else min(max_steps, per_epoch * epochs)
    steps: list[Step] = []
    for epoch in range(-(-wanted // per_epoch)):
        order = _shuffled(len(lengths), seed, epoch)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens, labels = (sum(counts[index] for index in chosen) for counts in (lengths, labelled))
            steps.append(Step(_first_fit(chosen, lengths, micro_batch_tokens), epoch, tokens, labels))
    return Schedule(tuple(steps[:wanted]))


def pack(examples: Sequence[Example], indices: Sequence[int]) -> Packed:
    """The examples at `indices` end to end; positions restart at 0 with each, and no first token is labelled."""
    chosen = [examples[index] for index in indices]
    lengths = tuple(len(example.input_ids) for example in chosen)
    masks = [np.concatenate([[False], example.labels_mask[1:]]) for example in chosen]
    return Packed(
        input_ids=np.concatenate([example.input_ids for example in chosen]).astype(np.int32),
        position_ids=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        labels_mask=np.concatenate(masks).astype(np.bool_),
        document_lengths=lengths,
    )


def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    # RandomState's stream is frozen by numpy's policy, so a resumed run has the same order with any version
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, epoch]
    return [int(index) for index in np.random.RandomState(words).permutation(count)]


def _first_fit(chosen: Sequence[int], lengths: Sequence[int], limit: int) -> tuple[tuple[int, ...], ...]:
    batches: list[list[int]] = []
    free: list[int] = []
    for index in sorted(chosen, key=lambda index: -lengths[index]):
        fitting = next((at for at, room in enumerate(free) if lengths[index] <= room), None)
        if fitting is None:
            batches.append([index])
            free.append(limit - lengths[index])
        else:
            batches[fitting].append(index)
            free[fitting] -= lengths[index]
    return tuple(map(tuple, batches))
