"""How a weight is made of a file's tensors, where it is not one of them as it lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the file, or slices `start` to `stop` of the `count` along its outermost axis."""

    tensor: str
    start: int = 0
    stop: int = 1
    count: int = 1

    @property
    def is_whole(self) -> bool:
        return self.stop - self.start == self.count


@dataclass(frozen=True, slots=True)
class Reading:
    """How a weight of `shape` is made: pieces side by side along the last axis, then what else it takes.

    `heads` undoes the interleaving of llama.cpp's conversion, `transposed` reads [in, out] bytes as [out, in], `shift`
    is added to every element.
    """

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    heads: int | None = None
    transposed: bool = False
    shift: float = 0.0
