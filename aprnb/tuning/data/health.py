"""What a look at the rows would tell: repeated rows, held-out rows that resemble trained ones, lengths (numpy only)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprnb.tuning.data.row import AnyRow, Row, TextRow

MOST_ROWS, MOST_HELD_OUT = 5_000, 1_000
"""Rows of each part that are compared with each other: all, or so many at even distances."""
NEAR = 0.8
"""Jaccard index of two rows' shingles from which they are nearly the same."""
_SHINGLE_BYTES, _LEAST_SHINGLES, _COMMON_PART = 8, 8, 0.05
_BINS = 8

Shingles = NDArray[np.uint64]


@dataclass(frozen=True)
class DataHealth:
    """Of the rows to train on, the number that repeat earlier ones; of those held out, the number like trained ones.

    `histogram` counts examples by tokens, in eight bins of equal width from the shortest to the longest; `lengths` are
    those of the shortest, the median and the longest. `first_near` names the first held-out row and what it is like.
    """

    duplicates: int
    near_duplicates: int
    first_near: str
    lengths: tuple[int, int, int]
    histogram: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The part of a plan's document."""
        least, median, most = self.lengths
        lengths = {"least": least, "median": median, "most": most, "histogram": list(self.histogram)}
        return {"duplicates": self.duplicates, "near_duplicates": self.near_duplicates, "lengths": lengths}

    def warnings(self) -> Iterator[str]:
        """What the user should know before training."""
        if self.duplicates:
            yield f"{self.duplicates:,} rows to train on repeat earlier ones"
        if self.near_duplicates:
            found = f"{self.near_duplicates:,} held-out rows are nearly the same as rows to train on"
            yield f"{found} ({self.first_near}): the held-out loss will look too good"


def look_at(train: Sequence[AnyRow], held_out: Sequence[AnyRow], lengths: Sequence[int]) -> DataHealth:
    """The health of rows whose examples have these lengths in tokens."""
    different = {row.key: row for row in train}
    repeated = len({id(row) for row in train}) - len(different)  # a source of weight 2 gives the same row twice
    near = list(_near(_sample(list(different.values()), MOST_ROWS), _sample(held_out, MOST_HELD_OUT)))
    bins, _ = np.histogram(lengths, _BINS)
    shown = int(min(lengths)), int(np.median(lengths)), int(max(lengths))
    return DataHealth(max(0, repeated), len(near), near[0] if near else "", shown, tuple(map(int, bins)))


def _near(train: Sequence[AnyRow], held_out: Sequence[AnyRow]) -> Iterator[str]:
    """`held-out row, like trained row` for each held-out row that nearly is a trained one."""
    if not train or not held_out:
        return
    every = list(map(_shingles, (*train, *held_out)))
    owners = np.repeat(np.arange(len(every)), [len(one) for one in every])
    _, numbers, counts = np.unique(np.concatenate(every), return_inverse=True, return_counts=True)
    # What many rows share, such as a system text or the words of the task, does not make two of them alike.
    kept = counts[numbers] <= max(2, _COMMON_PART * len(every))
    numbers, owners = numbers[kept], owners[kept]
    is_known = owners < len(train)
    known, of = numbers[is_known], owners[is_known]
    order = np.argsort(known, kind="stable")
    known, of, sizes = known[order], of[order], np.bincount(of, minlength=len(train))
    starts = np.searchsorted(owners, np.arange(len(train), len(every) + 1))
    for at, row in enumerate(held_out):
        own = numbers[starts[at] : starts[at + 1]]
        if len(own) < _LEAST_SHINGLES:
            continue
        first, last = (np.searchsorted(known, own, side) for side in ("left", "right"))
        spans = [of[start:stop] for start, stop in zip(first, last, strict=True) if stop > start]
        if spans:
            shared = np.bincount(np.concatenate(spans), minlength=len(train))
            alike = shared / (len(own) + sizes - shared)
            best = int(alike.argmax())
            if alike[best] >= NEAR and _jaccard(every[len(train) + at], every[best]) >= NEAR:
                yield f"{row.origin}, like {train[best].origin}"


def _jaccard(one: Shingles, other: Shingles) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _shingles(row: AnyRow) -> Shingles:
    """The different runs of eight bytes of the row's words in lower case, without what is between them."""
    words = " ".join(re.findall(r"\w+", _text(row).casefold())).encode("utf-8", "surrogatepass")
    if len(words) < _SHINGLE_BYTES:
        return np.zeros(0, np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(np.frombuffer(words, np.uint8), _SHINGLE_BYTES)
    return np.unique(np.ascontiguousarray(runs).view(np.uint64))


def _text(row: AnyRow) -> str:
    if isinstance(row, Row):
        return "\n".join(message.content for message in row.messages)
    return row.text if isinstance(row, TextRow) else " ".join(map(str, row.input_ids.tolist()))


def _sample(rows: Sequence[AnyRow], most: int) -> list[AnyRow]:
    step = -(-len(rows) // most) or 1
    return list(rows[::step])
