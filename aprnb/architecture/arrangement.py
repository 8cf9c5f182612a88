"""Which tensors of the file make each weight of the model, and the shapes that they must have there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aprnb.architecture.architecture import Architecture, ExpectedTensor
from aprnb.architecture.names import canonical_name
from aprnb.architecture.orientation import (
    came_from_gguf,
    has_reversed_shapes,
    has_transposed_projections,
    is_projection,
)
from aprnb.formats import Checkpoint

Expected = Mapping[str, ExpectedTensor]


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
    """How a weight of `shape` is made: pieces side by side along the last axis, then the steps that follow.

    `heads` undoes the interleaving of llama.cpp's conversion, `transposed` reads [in, out] bytes as [out, in], `shift`
    is added to every element.
    """

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    heads: int | None = None
    transposed: bool = False
    shift: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the file and the shapes that it may have, the usual one first."""

    tensor: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """The parts of one weight; `reading` is None where the only part is the weight unchanged."""

    parts: tuple[Part, ...]
    reading: Reading | None = None


def arrange(
    checkpoint: Checkpoint, architecture: Architecture, expected: Expected
) -> tuple[dict[str, StoredWeight], list[str]]:
    """Model name → parts for every weight that the file has, and its tensors that belong to no weight."""
    arrangement = _Arrangement(checkpoint, architecture, expected)
    stored = {name: weight for name, tensor in expected.items() if (weight := arrangement.find(tensor)) is not None}
    used = {part.tensor for weight in stored.values() for part in weight.parts}
    ignored = {*architecture.superseded, *arrangement.needless_heads()}
    return stored, [name for name in checkpoint.tensors if name not in used and name not in ignored]


class _Arrangement:
    """The state of `arrange` for one file and one model."""

    def __init__(self, checkpoint: Checkpoint, architecture: Architecture, expected: Expected) -> None:
        self._architecture, self._expected = architecture, expected
        self._slots: dict[str, str] = {}
        for name in checkpoint.tensors:
            if name not in architecture.superseded:
                self._slots.setdefault(canonical_name(name, architecture.family), name)
        self._from_gguf = came_from_gguf(checkpoint)
        self._reversed = has_reversed_shapes(checkpoint)
        self._transposed = has_transposed_projections(checkpoint)
        self._fused = self._rows_of_fused()
        self._stacks: dict[tuple[str, int | None], str | None] = {}

    def needless_heads(self) -> list[str]:
        """A head that the model ties to its embedding."""
        return [self._slots[name] for name in ("lm_head.weight",) if name in self._slots and name not in self._expected]

    def find(self, tensor: ExpectedTensor) -> StoredWeight | None:
        if tensor.name in self._slots:
            return self._whole(tensor, self._slots[tensor.name])
        rule = tensor.rule
        names = [self._slots.get(part.format(layer=tensor.layer, expert=tensor.expert)) for part in rule.parts]
        if names and all(names):
            return self._side_by_side(tensor, [name for name in names if name])
        if tensor.name in self._fused:
            return self._rows(tensor, *self._fused[tensor.name])
        stacked = self._stack(rule.gguf, tensor.layer) if rule.per_expert else None
        return self._slice(tensor, stacked) if stacked else None

    def _stack(self, pattern: str, layer: int | None) -> str | None:
        """The file's tensor of all experts of a layer."""
        if (pattern, layer) not in self._stacks:
            self._stacks[pattern, layer] = self._slots.get(pattern.format(layer=layer))
        return self._stacks[pattern, layer]

    def _whole(self, tensor: ExpectedTensor, name: str) -> StoredWeight:
        family, rule = self._architecture.family, tensor.rule
        # llama.cpp's conversion goes by its names, or by the origin of a file whose names only were changed
        renamed = name != tensor.name
        converted = self._from_gguf or (renamed and name == rule.gguf.format(layer=tensor.layer))
        if not (converted or self._transposed or self._reversed):
            return StoredWeight((Part(name, (tensor.shape,)),))
        matrix = len(tensor.shape) == 2
        permuted = converted and family.gguf.permutes_rows and rule.rotated_heads
        heads = self._architecture[rule.rotated_heads] if permuted and rule.rotated_heads else None
        shift = -1.0 if converted and family.gguf.adds_one_to_norms and rule.role == "norm" else 0.0
        turned = converted and rule.role == "conv1d"
        transposed = turned or (self._transposed and matrix and is_projection(tensor.name))
        reverse = turned or (self._reversed and matrix)
        shapes = (tensor.shape[::-1] if reverse else tensor.shape,)
        if not (heads or shift or transposed or reverse):
            return StoredWeight((Part(name, shapes),))
        return StoredWeight((Part(name, shapes),), Reading((Piece(name),), tensor.shape, heads, transposed, shift))

    def _side_by_side(self, tensor: ExpectedTensor, names: list[str]) -> StoredWeight:
        shape = (*tensor.shape[:-1], tensor.shape[-1] // len(names))
        parts = tuple(Part(name, (shape,)) for name in names)
        return StoredWeight(parts, Reading(tuple(Piece(name) for name in names), tensor.shape))

    def _rows_of_fused(self) -> dict[str, tuple[str, int, int]]:
        """Model name → the file's fused tensor, the first row, and the rows of the whole."""
        groups: dict[str, list[ExpectedTensor]] = {}
        for tensor in self._expected.values():
            if tensor.rule.fused:
                groups.setdefault(tensor.rule.fused.format(layer=tensor.layer), []).append(tensor)
        found = {}
        for fused, tensors in groups.items():
            if fused in self._slots:
                total, start = sum(tensor.shape[0] for tensor in tensors), 0
                for tensor in tensors:
                    found[tensor.name] = (self._slots[fused], start, total)
                    start += tensor.shape[0]
        return found

    def _rows(self, tensor: ExpectedTensor, name: str, start: int, total: int) -> StoredWeight:
        piece = Piece(name, start, start + tensor.shape[0], total)
        return StoredWeight((Part(name, ((total, *tensor.shape[1:]),)),), Reading((piece,), tensor.shape))

    def _slice(self, tensor: ExpectedTensor, name: str) -> StoredWeight:
        """One expert of a stack; importers list the stack's dimensions in either order, the bytes are the same."""
        assert tensor.expert is not None
        count = self._architecture["num_experts"]
        shape = (count, *tensor.shape)
        piece = Piece(name, tensor.expert, tensor.expert + 1, count)
        return StoredWeight((Part(name, (shape, shape[::-1])),), Reading((piece,), tensor.shape))
