"""Conversations through the tokenizer's chat template, with the tokens of their answers marked (no torch)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aprnb.tuning.data.counts import Counts
from aprnb.tuning.data.example import Example, Mask
from aprnb.tuning.data.labels import Answer, Span, Turn, find_answers, shared_length
from aprnb.tuning.data.messages import Message
from aprnb.tuning.data.row import Row
from aprnb.tuning.data.tool_use import names

if TYPE_CHECKING:
    from aprnb.tokenizer.chat_template import Rendering, Request
    from aprnb.tokenizer.sandbox.tokenizer_process import Encode


class Conversations:
    """Encodes conversations; `train_on` is one of "answers", "last" and "everything"."""

    def __init__(self, tokenizer: Any, encode: Encode, counts: Counts, train_on: str) -> None:
        self.tokenizer, self.encode, self.counts, self.train_on = tokenizer, encode, counts, train_on
        self._control = _control_pattern(tokenizer)

    def examples(self, rows: Sequence[Row]) -> Iterator[Example | None]:
        """Each row's tokens, whole; None for one without an answer, and for one that is rejected (see the counts)."""
        from aprnb.tokenizer.chat_template import render_all

        rows = [row.for_template(str(self.tokenizer.chat_template)) for row in rows]
        requests = [self._requests(row) for row in rows]
        renderings = iter(render_all(self.tokenizer, [one for asked in requests for one in asked]) if rows else ())
        rendered = [list(islice(renderings, len(asked))) for asked in requests]
        usable = [self._texts(row, found) for row, found in zip(rows, rendered, strict=True)]
        encodings = iter(self.encode([texts[0] for texts in usable if texts]))
        for row, texts in zip(rows, usable, strict=True):
            yield self._labelled(row, texts, next(encodings)) if texts else None

    def _positions(self, row: Row) -> list[int]:
        """The answers that are trained."""
        found = [at for at, message in enumerate(row.messages) if message.role == "assistant" and message.trained]
        return found[-1:] if self.train_on == "last" else found

    def _requests(self, row: Row) -> list[Request]:
        """The conversation up to its last answer, then for each answer its prompt and, but for the last, itself."""
        from aprnb.tokenizer.chat_template import Request

        messages, positions = row.rendered(), self._positions(row)
        if not positions:
            return []
        requests = [Request(messages[: positions[-1] + 1], add_generation_prompt=False, tools=row.tools)]
        requests += [Request(messages[:at], add_generation_prompt=True, tools=row.tools) for at in positions]
        requests += [Request(messages[: at + 1], add_generation_prompt=False, tools=row.tools) for at in positions[:-1]]
        return requests

    def _texts(self, row: Row, renderings: Sequence[Rendering]) -> list[str]:
        """What the template wrote for the requests; nothing for a row that cannot be used."""
        if not renderings:
            self.counts.without_answer += 1
            return []
        problem = next((rendering.problem for rendering in renderings if rendering.text is None), None)
        texts = [rendering.text for rendering in renderings if rendering.text is not None]
        if problem is not None:
            self.counts.rejected.append(f"{row.origin}: the chat template rejects this conversation: {problem}")
            return []
        lost = _unwritten(row, row.messages[self._positions(row)[-1]], texts[0])
        if lost:
            self.counts.rejected.append(f"{row.origin}: the chat template does not write {lost}")
            return []
        return texts

    def _labelled(self, row: Row, texts: Sequence[str], encoding: Any) -> Example | None:
        positions, counts = self._positions(row), self.counts
        counts.control_text += any(self._control.search(message.content) for message in row.messages)
        prompts, earlier = texts[1 : 1 + len(positions)], texts[1 + len(positions) :]
        answered = [*earlier, texts[0]]
        turns = [
            Turn(_content(row.messages[at]), *pair) for at, *pair in zip(positions, prompts, answered, strict=True)
        ]
        ids = np.array(encoding.ids, dtype=np.int32)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        added = np.isin(ids, list(self.tokenizer.added_tokens_decoder))
        spans: list[Span] = [(int(begin), int(end)) for begin, end in offsets[added]]
        answers, complete = find_answers(texts[0], turns, spans)
        if not answers:
            written = _disagreement(turns[-1].prompt, texts[0])
            counts.rejected.append(
                f"{row.origin}: the start of the answer is unknown: the chat template writes {written}"
            )
            return None
        counts.last_turn_only += not complete
        begins = np.array([answer.span[0] for answer in answers])
        straddles = ((offsets[:, :1] < begins) & (offsets[:, 1:] > begins)).any()
        counts.straddling += bool(straddles) and self.train_on != "everything"
        ends = [int(np.flatnonzero(offsets[:, 0] == answer.end_token[0])[-1]) for answer in answers if answer.end_token]
        mask = np.arange(len(ids)) > 0 if self.train_on == "everything" else _mask(answers, offsets)
        return Example(ids, mask, row.origin, tuple(ends))


def _content(message: Message) -> str:
    """What to look for in the rendered answer; nothing where the template writes more than the content."""
    return "" if message.thinking or "tool_calls" in message.more else message.content


def _unwritten(row: Row, last: Message, text: str) -> str:
    """What of the row the template left out of `text`: tools, or what its last answer consists of."""
    if tool := next((name for name in names(row.tools) if name not in text), ""):
        return f"the tool {tool[:60]!r}"
    if call := next((name for name in names(tuple(last.more.get("tool_calls", ()))) if name not in text), ""):
        return f"the call of {call[:60]!r}"
    return "the answer's thinking (reasoning_content)" if last.thinking.strip() not in text else ""


def _mask(answers: Sequence[Answer], offsets: NDArray[np.int64]) -> Mask:
    """Tokens that lie inside an answer; one that straddles its beginning belongs to the prompt."""
    mask = np.zeros(len(offsets), dtype=np.bool_)
    for answer in answers:
        start, stop = answer.span
        mask |= (offsets[:, 0] >= start) & (offsets[:, 0] < stop) & (offsets[:, 1] <= stop)
    mask[:1] = False
    return mask


def _disagreement(prompt: str, text: str) -> str:
    same = shared_length(prompt, text)
    return (
        f"{prompt[max(0, same - 20) :][:60]!r} for generation, but {text[max(0, same - 20) :][:60]!r} before an answer"
    )


def _control_pattern(tokenizer: Any) -> re.Pattern[str]:
    texts = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(texts) or "(?!)")
