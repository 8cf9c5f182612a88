"""Training examples: tokens and which of them are to be predicted (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Example:
    """One document: `input_ids` [T]; `labels_mask` [T] says which tokens are to be predicted (never the first).

    `ends` are the indices of its labelled end tokens.
    """

    input_ids: IntArray
    labels_mask: Mask
    origin: str
    ends: tuple[int, ...] = ()

    def part(self, start: int, stop: int, *, first: int | None = None) -> Example:
        """The tokens from `start` to `stop`, with token `first` in front."""
        ids, mask = self.input_ids[start:stop], self.labels_mask[start:stop].copy()
        ends = tuple(at - start for at in self.ends if start <= at < stop)
        if first is not None:
            ids, mask = np.concatenate([[np.int32(first)], ids]), np.concatenate([[False], mask])
            ends = tuple(at + 1 for at in ends)
        mask[:1] = False
        return Example(ids, mask, self.origin, tuple(at for at in ends if mask[at]))


@dataclass(frozen=True)
class Examples:
    """The examples to train on, and counts of rows; `tokens` and `labelled_tokens` are those of the examples."""

    examples: tuple[Example, ...]
    rows: int
    rows_without_labels: int
    tokens: int
    labelled_tokens: int
    truncated: int
    warnings: tuple[str, ...] = ()

    @property
    def lengths(self) -> list[int]:
        return [len(example.input_ids) for example in self.examples]

    @property
    def labelled(self) -> list[int]:
        return [int(example.labels_mask.sum()) for example in self.examples]
