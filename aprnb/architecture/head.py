"""Which tensor is the language-model head, and whether it is the embedding.

Writers mark this in contradictory ways: a placeholder with a shape and no bytes, a true `tied_embeddings` flag with
a separate head, a copy of the embedding named `lm_head.weight` with the real `output.weight`. The bytes decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint

_CHUNK_BYTES = 1 << 20
_HEADS = ("output.weight", "lm_head.weight")
_EMBEDDINGS = (
    *("model.embed_tokens.weight", "token_embd.weight", "embed_tokens.weight"),
    *("transformer.wte.weight", "wte.weight"),
)


@dataclass(frozen=True, slots=True)
class Head:
    """`tied` is None where bytes do not decide (an equal or differently typed copy); `tensor` is the head's name."""

    tensor: str | None
    tied: bool | None
    source: str
    default: bool = True
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def find_head(checkpoint: Checkpoint) -> Head:
    """Reads head and embedding up to their first difference."""
    entries = checkpoint.tensors
    embedding = next((name for name in _EMBEDDINGS if name in entries), None)
    heads = [name for name in _HEADS if name in entries]
    with_bytes = [name for name in heads if entries[name].size_bytes]
    if not with_bytes:
        return Head(None, True, f"{heads[0]} with 0 bytes" if heads else "no head tensor in the index")
    if embedding is None:
        return Head(with_bytes[0], None, "no embedding to compare the head with", default=False)
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
    return Head(head.tensor, head.tied, head.source, head.default, (copy,), (warning, *head.warnings))


def _compared(checkpoint: Checkpoint, head: str, embedding: str) -> Head:
    flag = checkpoint.metadata.get("tied_embeddings")
    if flag is False:
        return Head(head, False, "metadata tied_embeddings")
    if checkpoint.tensors[head].dtype != checkpoint.tensors[embedding].dtype:
        return Head(head, None, f"{head} has another dtype than the embedding", default=False)
    likeness = _likeness(checkpoint, head, embedding)
    if likeness == "different":
        wrong = ("metadata tied_embeddings is true, but the head's bytes differ: the flag is wrong",) if flag else ()
        return Head(head, False, f"bytes of {head} differ from {embedding}", warnings=wrong)
    if flag is True:
        return Head(head, True, f"metadata tied_embeddings, and {head} equals {embedding}")
    if likeness == "zero":
        return Head(head, None, f"{head} is all zero", default=False)
    return Head(head, None, f"{head} equals {embedding}")


def _likeness(checkpoint: Checkpoint, first: str, second: str) -> Literal["different", "equal", "zero"]:
    """Compares two tensors byte by byte up to the first difference; equal ones that are all zero prove nothing."""
    one, other = checkpoint.tensors[first], checkpoint.tensors[second]
    if (one.dtype, one.shape, one.size_bytes) != (other.dtype, other.shape, other.size_bytes):
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


def _both_holes(checkpoint: Checkpoint, first: str, second: str, start: int, size_bytes: int) -> bool:
    return all(checkpoint.is_hole(name, start, size_bytes) for name in (first, second))
