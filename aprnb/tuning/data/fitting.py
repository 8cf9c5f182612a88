"""Examples that are longer than a sequence may be (numpy only)."""

from __future__ import annotations

import numpy as np

from aprnb.errors import DataError
from aprnb.tuning.data.example import Example


def fitted(example: Example, longest: int, too_long: str, bos_id: int | None) -> list[Example]:
    """The example as examples of at most `longest` tokens; none where nothing of it can be trained.

    `too_long` is "truncate-prompt" (the head is cut, and an answer whose beginning went with it is context only; what
    has no prompt is split), "split" (into pieces that follow each other), "drop" or "error". A BOS at the beginning
    stays. Raises DataError for "error".
    """
    length = len(example.input_ids)
    if length <= longest:
        parts = [example]
    elif too_long == "error":
        raise DataError(
            f"{example.origin} has {length:,} tokens", expected=f"at most {longest:,}",
            action="give a larger --max-seq-len, or another --too-long",
        )  # fmt: skip
    elif too_long == "drop":
        parts = []
    elif too_long == "split" or bool(example.labels_mask[1:].all()):
        # Each piece begins with the last token of the one before, so that every token is predicted in one of them.
        parts = [example.part(start, start + longest) for start in range(0, length - 1, longest - 1)]
    else:
        parts = [_tail(example, longest, bos_id)]
    return [part for part in parts if part.labels_mask.any()]


def _tail(example: Example, longest: int, bos_id: int | None) -> Example:
    """The last tokens, without labels on an answer that is cut."""
    first = bos_id if bos_id is not None and example.input_ids[0] == bos_id else None
    start = len(example.input_ids) - longest + (first is not None)
    mask = example.labels_mask.copy()
    # An answer needs a token in front of it, from which its first token is predicted.
    cut = start if first is not None else start + 1
    if mask[cut - 1] and mask[cut]:
        unlabelled = np.flatnonzero(~mask[cut:])
        mask[cut : cut + unlabelled[0] if len(unlabelled) else None] = False
    return Example(example.input_ids, mask, example.origin, example.ends).part(start, len(mask), first=first)
