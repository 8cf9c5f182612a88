"""Rows as token ids with the answers marked (no torch)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aprnb.errors import DataError
from aprnb.printable import and_more
from aprnb.tuning.data.labels import Answer, Span, Turn, find_answers, shared_length
from aprnb.tuning.data.rows import Row

if TYPE_CHECKING:
    from aprnb.tokenizer.chat_template import Rendering, Request
    from aprnb.tokenizer.sandbox.tokenizer_process import Encode

IntArray = NDArray[np.int32]
Mask = NDArray[np.bool_]
_ROWS_PER_BATCH = 2_000


@dataclass(frozen=True)
class Example:
    """One conversation: `input_ids` [T]; `labels_mask` [T] says which tokens are to be predicted (never the first)."""

    input_ids: IntArray
    labels_mask: Mask
    origin: str


@dataclass(frozen=True)
class Examples:
    """The rows to train on, and counts of those left out; `tokens` and `labelled_tokens` are those of the examples."""

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


@dataclass
class _Counts:
    """Counts for warnings and errors; end tokens are those of examples that were kept."""

    without_answer: int = 0
    cut_before_answer: int = 0
    truncated: int = 0
    last_turn_only: int = 0
    control_text: int = 0
    straddling: int = 0
    end_tokens: Counter[int] = field(default_factory=Counter)
    cut_end_tokens: int = 0
    rejected: list[str] = field(default_factory=list)


def encode_rows(rows: Sequence[Row], tokenizer: Any, max_seq_len: int, encode: Encode | None = None) -> Examples:
    """Each row through the tokenizer's chat template; every answer and its end-of-turn token is labelled.

    An answer is all that follows the template's opening for generation (with it what the template writes in front of
    the content, such as an empty thinking block) up to the end-of-turn token; a line break after that is not labelled.
    Answers that are not trained have no label; turns after the last trained one are left out. Nothing is added: no
    BOS, no system text, no end token that template and row do not have. Rows are cut at the end at `max_seq_len`.

    Raises ChatTemplateError without a usable template, DataError where a row cannot be rendered or labelled, no row
    keeps a label, or no end-of-turn token is labelled.
    """
    counts = _Counts()
    examples: list[Example] = []
    remaining = (row.for_template(str(tokenizer.chat_template)) for row in rows)
    while batch := list(islice(remaining, _ROWS_PER_BATCH)):
        examples += _encode_batch(batch, tokenizer, max_seq_len, counts, encode or _plainly(tokenizer))
    _require_usable(counts, len(examples), max_seq_len)
    return Examples(
        examples=tuple(examples),
        rows=len(rows),
        rows_without_labels=len(rows) - len(examples),
        tokens=sum(len(example.input_ids) for example in examples),
        labelled_tokens=sum(int(example.labels_mask.sum()) for example in examples),
        truncated=counts.truncated,
        warnings=tuple(_warnings(counts, tokenizer)),
    )


def _plainly(tokenizer: Any) -> Encode:
    return lambda texts: tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)


def _encode_batch(
    rows: Sequence[Row], tokenizer: Any, max_seq_len: int, counts: _Counts, encode: Encode
) -> Iterator[Example]:
    from aprnb.tokenizer.chat_template import render_all

    control = _control_pattern(tokenizer)
    answered = [row for row in rows if _answer_positions(row)]
    counts.without_answer += len(rows) - len(answered)
    requests = [request for row in answered for request in _requests(row)]
    renderings = iter(render_all(tokenizer, requests))
    rendered = [(row, list(islice(renderings, len(_requests(row))))) for row in answered]
    usable = [(row, texts) for row, found in rendered if (texts := _texts(row, found, counts)) is not None]
    encodings = encode([texts[0] for _, texts in usable])
    for (row, texts), encoding in zip(usable, encodings, strict=True):
        counts.control_text += any(control.search(message.content) for message in row.messages)
        example = _labelled(row, texts, encoding, tokenizer, counts)
        if example is not None and (cut := _cut(*example, max_seq_len, counts)) is not None:
            yield cut


def _answer_positions(row: Row) -> list[int]:
    return [at for at, message in enumerate(row.messages) if message.role == "assistant" and message.trained]


def _requests(row: Row) -> list[Request]:
    """The whole conversation up to its last answer, then for each answer its prompt and, but for the last, itself."""
    from aprnb.tokenizer.chat_template import Request

    messages, positions = row.to_json(), _answer_positions(row)
    requests = [Request(messages[: positions[-1] + 1], add_generation_prompt=False)]
    requests += [Request(messages[:at], add_generation_prompt=True) for at in positions]
    requests += [Request(messages[: at + 1], add_generation_prompt=False) for at in positions[:-1]]
    return requests


def _texts(row: Row, renderings: Sequence[Rendering], counts: _Counts) -> list[str] | None:
    problem = next((rendering.problem for rendering in renderings if rendering.text is None), None)
    if problem is not None:
        counts.rejected.append(f"{row.origin}: the chat template rejects this conversation: {problem}")
        return None
    return [rendering.text for rendering in renderings if rendering.text is not None]


def _labelled(
    row: Row, texts: Sequence[str], encoding: Any, tokenizer: Any, counts: _Counts
) -> tuple[Example, list[int]] | None:
    """The whole row with its labels, and the indices of its labelled end-of-turn tokens."""
    positions = _answer_positions(row)
    prompts, earlier = texts[1 : 1 + len(positions)], texts[1 + len(positions) :]
    answered = [*earlier, texts[0]]
    turns = [Turn(row.messages[at].content, *pair) for at, *pair in zip(positions, prompts, answered, strict=True)]
    ids = np.array(encoding.ids, dtype=np.int32)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    added = np.isin(ids, list(tokenizer.added_tokens_decoder))
    spans: list[Span] = [(int(begin), int(end)) for begin, end in offsets[added]]
    answers, complete = find_answers(texts[0], turns, spans)
    if not answers:
        differing = _disagreement(turns[-1].prompt, texts[0])
        counts.rejected.append(
            f"{row.origin}: the start of the answer is unknown: the chat template writes {differing}"
        )
        return None
    counts.last_turn_only += not complete
    mask = _mask(answers, offsets)
    ends = [int(np.flatnonzero(offsets[:, 0] == answer.end_token[0])[-1]) for answer in answers if answer.end_token]
    begins = np.array([answer.span[0] for answer in answers])
    counts.straddling += bool(((offsets[:, :1] < begins) & (offsets[:, 1:] > begins)).any())
    return Example(ids, mask, row.origin), ends


def _mask(answers: Sequence[Answer], offsets: NDArray[np.int64]) -> Mask:
    """Tokens that lie inside an answer; one that straddles its beginning belongs to the prompt."""
    mask = np.zeros(len(offsets), dtype=np.bool_)
    for answer in answers:
        start, stop = answer.span
        mask |= (offsets[:, 0] >= start) & (offsets[:, 0] < stop) & (offsets[:, 1] <= stop)
    mask[:1] = False
    return mask


def _cut(example: Example, ends: Sequence[int], max_seq_len: int, counts: _Counts) -> Example | None:
    counts.truncated += len(example.input_ids) > max_seq_len
    mask = example.labels_mask[:max_seq_len]
    if not mask.any():
        counts.cut_before_answer += bool(example.labels_mask.any())
        return None
    kept = [at for at in ends if at < max_seq_len]
    counts.cut_end_tokens += len(ends) - len(kept)
    counts.end_tokens.update(int(example.input_ids[at]) for at in kept)
    return Example(example.input_ids[:max_seq_len], mask, example.origin)


def _disagreement(prompt: str, text: str) -> str:
    same = shared_length(prompt, text)
    return (
        f"{prompt[max(0, same - 20) :][:60]!r} for generation, but {text[max(0, same - 20) :][:60]!r} before an answer"
    )


def _control_pattern(tokenizer: Any) -> re.Pattern[str]:
    texts = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(texts) or "(?!)")


def _require_usable(counts: _Counts, usable: int, max_seq_len: int) -> None:
    if counts.rejected:
        more = f" ({and_more(len(counts.rejected) - 1)})" if len(counts.rejected) > 1 else ""
        raise DataError(counts.rejected[0] + more, action="change the rows, or give a template with --chat-template")
    if not usable:
        raise DataError(
            f"no row has tokens to train on: {counts.without_answer:,} without an answer,"
            f" {counts.cut_before_answer:,} whose answer begins after --max-seq-len {max_seq_len},"
            f" {counts.straddling:,} whose answer shares a token with the prompt",
            action="give rows with an assistant turn, or a larger --max-seq-len",
        )
    if counts.end_tokens:
        return
    if counts.cut_end_tokens:
        raise DataError(
            f"every answer is cut off at --max-seq-len {max_seq_len}, so the model would never learn to stop",
            action="give a larger --max-seq-len",
        )
    raise DataError(
        "no end-of-turn token is labelled, so the model would never learn to stop",
        expected="a chat template that ends answers with one of the tokenizer's added tokens",
        action="give a template with --chat-template",
    )


def _warnings(counts: _Counts, tokenizer: Any) -> Iterator[str]:
    if counts.last_turn_only:
        yield (
            f"{counts.last_turn_only:,} conversation(s): the chat template rewrites earlier answers;"
            " only the last one is trained on"
        )
    if counts.control_text:
        yield f"{counts.control_text:,} row(s) contain control tokens as text, which the model reads as such"
    if counts.straddling:
        yield f"{counts.straddling:,} row(s): the answer's first characters share a token with the prompt: not trained"
    if counts.cut_end_tokens:
        yield f"{counts.cut_end_tokens:,} answer(s) are cut off before their end-of-turn token"
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id not in counts.end_tokens:
        ends = ", ".join(repr(tokenizer.convert_ids_to_tokens(number)) for number in sorted(counts.end_tokens))
        named = f"the tokenizer's end token is {tokenizer.eos_token!r}"
        yield f"answers end with {ends}, {named}: other programs may not stop"
