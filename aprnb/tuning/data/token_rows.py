"""Rows that are tokens already: `input_ids`, and which of them are trained (numpy only)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprnb.tuning.data.row import NOT_TRAINED, TokenRow
from aprnb.tuning.data.row_values import BadRow, as_list, json_type, note_keys

_MASKS = ("labels_mask", "completion_mask", "assistant_masks", "loss_mask")
_DERIVED = ("attention_mask", "position_ids", "token_type_ids", "length", "seq_lengths")
"""Keys that follow from the tokens: rows have no padding, and each is a document of its own."""


def read_tokens(row: Mapping[str, Any], origin: str, ignored: dict[str, None]) -> TokenRow:
    """The tokens of a row; all are trained, or those that `labels` and masks name.

    `labels` are the tokens themselves, -100 where one is not trained (transformers shifts them, and so does training
    here). Raises BadRow for lists that do not fit together, padding, or a label that is another token.
    """
    ids = _numbers(row["input_ids"], "input_ids")
    if len(ids) < 2:
        raise BadRow(f"input_ids has {len(ids)} tokens, of which nothing can be predicted")
    if (ids < 0).any() or (ids >= 1 << 31).any():
        raise BadRow("input_ids holds a number that is no token")
    if "attention_mask" in row and not (_fitting(row, "attention_mask", ids) == 1).all():
        raise BadRow("attention_mask marks padding", "give the tokens without padding")
    trained = np.ones(len(ids), np.bool_)
    if "labels" in row:
        labels = _fitting(row, "labels", ids)
        trained &= labels != NOT_TRAINED
        if (labels[trained] != ids[trained]).any():
            at = int(np.flatnonzero(trained & (labels != ids))[0])
            raise BadRow(f"labels[{at}] is {labels[at]}, but the token there is {ids[at]}", "do not shift the labels")
    for name in _MASKS:
        if name in row:
            trained &= _fitting(row, name, ids) == 1
    note_keys(row, ("input_ids", "labels", *_MASKS, *_DERIVED), "", ignored)
    return TokenRow(ids.astype(np.int32), trained, origin)


def _fitting(row: Mapping[str, Any], name: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    found = _numbers(row[name], name)
    if len(found) != len(ids):
        raise BadRow(f"{name} has {len(found):,} values for {len(ids):,} tokens")
    return found


def _numbers(value: Any, name: str) -> NDArray[np.int64]:
    given = as_list(value)
    if not isinstance(given, (list, tuple)):
        raise BadRow(f"{name} is {json_type(given)}, not a list")
    if not set(map(type, given)) <= {int, bool}:
        raise BadRow(f"{name} holds values that are not whole numbers")
    try:
        return np.array(given, np.int64)
    except OverflowError:
        raise BadRow(f"{name} holds a number that is no token") from None
