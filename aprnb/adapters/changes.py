"""What an adapter does to one weight, part by part: a low-rank sum, new magnitudes, or new values.

A change is called with the index of the first value of a part (flat, in C order) and the base's values of that part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aprnb.formats.codecs.arrays import Floats

Change = Callable[[int, Floats], Floats]


@dataclass(frozen=True)
class LowRank:
    """W' = W + scale · left·right (Hu et al. 2021, section 4.1) in the orientation in which the weight is stored.

    `left` is [rows, r] and `right` [r, columns]: B and A, or for a weight that is stored [in, out] Aᵀ and Bᵀ.
    """

    left: Floats
    right: Floats
    scale: float

    @property
    def rank(self) -> int:
        return int(self.left.shape[1])

    def delta(self, rows: slice = slice(None)) -> Floats:
        """What is added to the weight's `rows`."""
        with np.errstate(over="ignore", invalid="ignore"):  # the writer rejects infinity and NaN
            change: Floats = self.left[rows] @ self.right
            change *= np.float32(self.scale)
        return change

    def __call__(self, start: int, base: Floats) -> Floats:
        columns = self.right.shape[1]
        first, last = start // columns, -(-(start + base.size) // columns)
        change = self.delta(slice(first, last)).reshape(-1)[start - first * columns :][: base.size]
        with np.errstate(over="ignore", invalid="ignore"):
            return base + change


def why_zero(changes: Mapping[str, Change]) -> str | None:
    """Why an adapter with these changes leaves every weight as it is; None for one that changes something."""
    pairs = [change for change in changes.values() if isinstance(change, LowRank)]
    if len(pairs) < len(changes) or any(pair.scale and pair.left.any() and pair.right.any() for pair in pairs):
        return None
    return "every product of lora_A and lora_B is 0" if any(pair.scale for pair in pairs) else "lora_alpha is 0"


@dataclass(frozen=True)
class Normalised:
    """DoRA (Liu et al. 2024): each output of W + scale · left·right gets the trained magnitude.

    `axis` is that of the inputs: 1 for [out, in]. `read` gives the whole weight before the change, flat.
    """

    change: LowRank
    magnitude: Floats
    axis: int
    read: Callable[[], Floats]

    @cached_property
    def factors(self) -> Floats:
        """magnitude / norm of each output."""
        base = self.read()
        whole = self.change(0, base.reshape(-1)).reshape(-1, self.change.right.shape[1])
        with np.errstate(divide="ignore", invalid="ignore"):
            factors: Floats = self.magnitude / np.linalg.norm(whole, axis=self.axis)
        return factors

    def __call__(self, start: int, base: Floats) -> Floats:
        columns = self.change.right.shape[1]
        places = np.arange(start, start + base.size)
        outputs = places // columns if self.axis == 1 else places % columns
        with np.errstate(over="ignore", invalid="ignore"):
            normalised: Floats = self.change(start, base) * self.factors[outputs]
        return normalised


@dataclass(frozen=True)
class Added:
    """`values`, flat, are added: the bias of a LoRA."""

    values: Floats

    def __call__(self, start: int, base: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            return base + self.values[start : start + base.size]


@dataclass(frozen=True)
class Replaced:
    """The weight was trained and saved whole: `values`, flat."""

    values: Floats

    def __call__(self, start: int, base: Floats) -> Floats:
        return self.values[start : start + base.size]


@dataclass(frozen=True)
class ReplacedRows:
    """The `rows` of an embedding were trained: `values` [rows, columns] take their place."""

    rows: tuple[int, ...]
    values: Floats

    def __call__(self, start: int, base: Floats) -> Floats:
        changed, columns = base.copy(), self.values.shape[1]
        for row, values in zip(self.rows, self.values, strict=True):
            first = row * columns - start
            low, high = max(0, first), min(base.size, first + columns)
            if low < high:
                changed[low:high] = values[low - first : high - first]
        return changed


@dataclass(frozen=True)
class Both:
    """One change after the other."""

    first: Change
    second: Change

    def __call__(self, start: int, base: Floats) -> Floats:
        return self.second(start, self.first(start, base))
