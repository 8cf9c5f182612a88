"""Which tensor is the language-model head, and whether it is the embedding.

Writers mark this in contradictory ways: a placeholder with a shape and no bytes, a true `tied_embeddings` flag with
a separate head, a copy of the embedding named `lm_head.weight` with the real `output.weight`. The bytes decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint
from aprnb.formats.codecs import decode
from aprnb.formats.values import encoded_parts

_CHUNK_BYTES, _ROWS = 1 << 20, 256
_ROUNDING = {"F64": 0.0, "F32": 0.0, "F16": 2.0**-10, "BF16": 2.0**-8}
"""Largest relative difference of a value from the one that it was rounded from, by type."""
_HEADS = ("output.weight", "lm_head.weight")
_EMBEDDINGS = (
    *("model.embed_tokens.weight", "token_embd.weight", "embed_tokens.weight"),
    *("transformer.wte.weight", "wte.weight"),
)


@dataclass(frozen=True, slots=True)
class Head:
    """`tied` is None where bytes do not decide (an equal copy); `tensor` is the head's name.

    `own`: its values differ from the embedding, so that no statement makes it the embedding.
    """

    tensor: str | None
    tied: bool | None
    source: str
    default: bool = True
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    own: bool = False


def find_head(checkpoint: Checkpoint) -> Head:
    """Reads head and embedding up to their first difference."""
    entries = checkpoint.tensors
    embedding = next((name for name in _EMBEDDINGS if name in entries), None)
    heads = [name for name in _HEADS if name in entries]
    with_bytes = [name for name in heads if entries[name].size_bytes]
    if not with_bytes:
        return Head(
            None, True, f"derived from {heads[0]} with 0 bytes" if heads else "derived from the tensor index: no head"
        )
    if embedding is None:
        return Head(
            with_bytes[0], None, f"derived from {with_bytes[0]}: no embedding to compare it with", default=False
        )
    if len(with_bytes) == 2:
        return _of_two(checkpoint, embedding)
    return _compared(checkpoint, with_bytes[0], embedding)


def _of_two(checkpoint: Checkpoint, embedding: str) -> Head:
    copy = "lm_head.weight"
    if "different" == _likeness(checkpoint, copy, embedding) == _likeness(checkpoint, copy, "output.weight"):
        raise ArchitectureError(
            "two different heads: output.weight and lm_head.weight",
            where=str(checkpoint.path),
            action="remove the wrong one; the file does not say which one it is",
        )
    head = _compared(checkpoint, "output.weight", embedding)
    warning = "lm_head.weight is a copy; the head is output.weight"
    return replace(head, ignored=(copy,), warnings=(warning, *head.warnings))


def _compared(checkpoint: Checkpoint, head: str, embedding: str) -> Head:
    flag = checkpoint.metadata.get("tied_embeddings")
    if flag is False:
        return Head(head, False, "metadata tied_embeddings")
    one, other = checkpoint.tensors[head], checkpoint.tensors[embedding]
    rounded: tuple[str, ...] = ()
    if one.dtype != other.dtype:
        both_floats = one.dtype.name in _ROUNDING and other.dtype.name in _ROUNDING
        if not both_floats or one.shape != other.shape:  # a quantised copy differs by its rounding
            return Head(head, None, f"derived from {head}: another dtype than the embedding", default=False)
        likeness = "equal" if _are_rounded_equal(checkpoint, head, embedding) else "different"
        types = f"{head} is {one.dtype.name}, {embedding} {other.dtype.name}"
        rounded = (f"{types}: equal but for rounding; in a tied model the embedding's values are used for both",)
    else:
        likeness = _likeness(checkpoint, head, embedding)
    if likeness == "different":
        wrong = ("metadata tied_embeddings is true, but the head's bytes differ: the flag is wrong",) if flag else ()
        source = f"derived from {head}, which differs from {embedding}"
        return Head(head, False, source, warnings=wrong, own=True)
    if flag is True:
        return Head(head, True, f"metadata tied_embeddings, and {head} equals {embedding}", warnings=rounded)
    if likeness == "zero":
        return Head(head, None, f"derived from {head}, which is all zero", default=False)
    return Head(head, None, f"derived from {head}, which equals {embedding}", warnings=rounded)


def _likeness(checkpoint: Checkpoint, first: str, second: str) -> Literal["different", "equal", "zero"]:
    """Compares two tensors up to the first difference; equal ones that are all zero prove nothing."""
    one, other = checkpoint.tensors[first], checkpoint.tensors[second]
    if one.shape != other.shape:
        return "different"
    if (one.dtype, one.size_bytes) != (other.dtype, other.size_bytes):
        return "different"
    zeros, empty = bytes(_CHUNK_BYTES), True
    for start in range(0, one.size_bytes, _CHUNK_BYTES):
        size = min(_CHUNK_BYTES, one.size_bytes - start)
        if _both_holes(checkpoint, first, second, start, size):
            if _both_holes(checkpoint, first, second, start, one.size_bytes - start):
                break
            continue
        part = checkpoint.read_part(first, start, size)
        if part != checkpoint.read_part(second, start, size):
            return "different"
        empty = empty and part == zeros[:size]
    return "zero" if empty else "equal"


def _are_rounded_equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two float tensors of two types hold the same values, rounded to the narrower one."""
    entries = checkpoint.tensors[first], checkpoint.tensors[second]
    rounding = max(_ROUNDING.get(entry.dtype.name, 0.0) for entry in entries)
    pairs = zip(*(_parts(checkpoint, entry.name, _ROWS * entry.shape[-1]) for entry in entries), strict=True)
    return all(np.allclose(one, other, rtol=rounding, atol=2.0**-24, equal_nan=True) for one, other in pairs)


def _parts(checkpoint: Checkpoint, name: str, elements: int) -> Iterator[np.ndarray]:
    dtype = checkpoint.tensors[name].dtype
    for raw, shape in encoded_parts(checkpoint, name, elements):
        yield decode(raw, dtype, shape)


def _both_holes(checkpoint: Checkpoint, first: str, second: str, start: int, size_bytes: int) -> bool:
    return all(checkpoint.is_hole(name, start, size_bytes) for name in (first, second))
