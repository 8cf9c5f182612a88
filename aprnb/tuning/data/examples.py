"""Rows as examples: conversations through the chat template, plain texts, and tokens as they are (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aprnb.tuning.data.conversations import Conversations
from aprnb.tuning.data.counts import Counts
from aprnb.tuning.data.example import Example, Examples
from aprnb.tuning.data.fitting import fitted
from aprnb.tuning.data.row import AnyRow, Row, TextRow, TokenRow

if TYPE_CHECKING:
    from aprnb.tokenizer.sandbox.tokenizer_process import Encode

_ROWS_PER_BATCH = 2_000


def encode_rows(
    rows: Sequence[AnyRow],
    tokenizer: Any,
    max_seq_len: int,
    encode: Encode | None = None,
    *,
    train_on: str = "answers",
    too_long: str = "truncate-prompt",
) -> Examples:
    """Each row as tokens, with those marked that are to be predicted.

    A conversation is written by the tokenizer's chat template. An answer is all that follows the template's opening for
    generation (with it what the template writes in front of the content, such as an empty thinking block) up to the
    end-of-turn token; a line break after that is not labelled. `train_on` says which answers are labelled: all
    ("answers"), the last one of each row ("last"), or every token, of prompts too ("everything"). Answers that are not
    trained have no label; turns after the last trained one are left out. Nothing is added that template and row do not
    have. A plain text has the tokenizer's BOS, if it adds one, and its end token. For rows of more than `max_seq_len`
    tokens, `too_long` is that of `fitting.fitted`.

    Raises ChatTemplateError without a usable template, DataError where a row cannot be rendered or labelled, no row
    keeps a label, or no end-of-turn token is labelled.
    """
    counts = Counts()
    encoder = _Encoder(tokenizer, encode or _plainly(tokenizer), counts, train_on)
    examples: list[Example] = []
    for example in encoder.examples(rows):
        kept = fitted(example, max_seq_len, too_long, tokenizer.bos_token_id)
        counts.too_long += not kept
        counts.kept += bool(kept)
        counts.shortened += bool(kept) and len(example.input_ids) > max_seq_len
        counts.end_tokens.update(int(one.input_ids[at]) for one in kept for at in one.ends)
        examples += kept
    counts.require_usable(len(examples), max_seq_len)
    return _counted(examples, len(rows), counts, tokenizer)


def _counted(examples: list[Example], rows: int, counts: Counts, tokenizer: Any) -> Examples:
    return Examples(
        examples=tuple(examples),
        rows=rows,
        rows_without_labels=rows - counts.kept,
        tokens=sum(len(example.input_ids) for example in examples),
        labelled_tokens=sum(int(example.labels_mask.sum()) for example in examples),
        truncated=counts.shortened,
        warnings=tuple(counts.warnings(tokenizer)),
    )


def _plainly(tokenizer: Any) -> Encode:
    def encode(texts: Sequence[str], special: bool = False) -> Any:
        return tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=special)

    return encode


class _Encoder:
    def __init__(self, tokenizer: Any, encode: Encode, counts: Counts, train_on: str) -> None:
        self.tokenizer, self.encode, self.counts = tokenizer, encode, counts
        self.conversations = Conversations(tokenizer, encode, counts, train_on)

    def examples(self, rows: Sequence[AnyRow]) -> Iterator[Example]:
        """The tokens of the rows in which something is trained, whole and in order."""
        for start in range(0, len(rows), _ROWS_PER_BATCH):
            for example in self._batch(rows[start : start + _ROWS_PER_BATCH]):
                if example is not None and example.labels_mask.any():
                    yield example

    def _batch(self, rows: Sequence[AnyRow]) -> Iterator[Example | None]:
        talks = self.conversations.examples([row for row in rows if isinstance(row, Row)])
        texts = self._texts([row for row in rows if isinstance(row, TextRow)])
        for row in rows:
            yield next(talks if isinstance(row, Row) else texts) if not isinstance(row, TokenRow) else self._tokens(row)

    def _texts(self, rows: Sequence[TextRow]) -> Iterator[Example]:
        end = self.tokenizer.eos_token_id
        encodings = self.encode([row.text for row in rows], special=True) if rows else []
        for row, encoding in zip(rows, encodings, strict=True):
            self.counts.texts += 1
            ids = np.array(encoding.ids, dtype=np.int32)
            if end is not None and (not len(ids) or ids[-1] != end):
                ids = np.append(ids, np.int32(end))
            yield Example(ids, np.arange(len(ids)) > 0, row.origin, (len(ids) - 1,) if end is not None else ())

    def _tokens(self, row: TokenRow) -> Example | None:
        self.counts.tokens += 1
        size = len(self.tokenizer)
        if (largest := int(row.input_ids.max())) >= size:
            self.counts.rejected.append(
                f"{row.origin}: token {largest:,} is not one of this tokenizer's {size:,}: another one made it"
            )
            return None
        mask = row.labels_mask.copy()
        mask[:1] = False
        self.counts.without_answer += not mask.any()
        ends = np.flatnonzero(mask & (row.input_ids == self.tokenizer.eos_token_id))
        return Example(row.input_ids, mask, row.origin, tuple(map(int, ends)))
