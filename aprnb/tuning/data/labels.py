"""Where the answers are in a rendered conversation, in characters (no torch).

A conversation is rendered whole; the part in front of an answer is rendered again, opened for generation. What follows
that opening in the whole text is what the model would have to write, the end-of-turn token included. Only positions
count, never token ids: an end token inside a question, or a padding token that equals the end token, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True)
class Turn:
    """An answer with its two renderings: the prompt opened for it, and the conversation up to and with it.

    `content` is empty where the template writes more than that of the message: tool calls or thinking.
    """

    content: str
    prompt: str
    answered: str


@dataclass(frozen=True)
class Answer:
    """The characters to learn; `end_token` is the span of the end-of-turn token, None where the template has none."""

    span: Span
    end_token: Span | None


def find_answers(text: str, turns: Sequence[Turn], added_tokens: Sequence[Span]) -> tuple[list[Answer], bool]:
    """The answers in `text`, and whether all turns could be placed.

    `added_tokens` are the spans of the tokenizer's added tokens in `text`. Where an earlier answer is not in the
    text as it was rendered when it was given (templates that drop earlier thinking), only the last answer is returned.
    No answer is returned where not even the last one begins as generation would.
    """
    last = _last_answer(text, turns[-1], added_tokens)
    if last is None:
        return [], False
    earlier = [_earlier_answer(text, turn, added_tokens) for turn in turns[:-1]]
    if any(answer is None for answer in earlier):
        return [last], False
    return [*(answer for answer in earlier if answer is not None), last], True


def shared_length(first: str, second: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first.startswith(second[:middle]) else (low, middle - 1)
    return low


def _last_answer(text: str, turn: Turn, added_tokens: Sequence[Span]) -> Answer | None:
    if not text.startswith(turn.prompt):
        return None
    region = len(turn.prompt), len(text)
    placed = _place(text, turn.content, region, added_tokens)
    if placed is not None and placed.end_token is not None:
        return placed
    # a template may rewrite the content (thinking on lines of its own); then the text's own end decides
    end = max(region[0], len(text.rstrip()))
    token = next((span for span in added_tokens if span[1] == end and span[0] >= region[0]), None)
    return Answer((region[0], end), token)


def _earlier_answer(text: str, turn: Turn, added_tokens: Sequence[Span]) -> Answer | None:
    if not text.startswith(turn.prompt):
        return None
    start = len(turn.prompt)
    if not turn.content:
        end = len(turn.answered.rstrip())
        token = next((span for span in added_tokens if span[1] == end and span[0] >= start), None)
        return Answer((start, end), token) if text.startswith(turn.answered) and token else None
    return _place(text, turn.content, (start, shared_length(text, turn.answered)), added_tokens)


def _place(text: str, content: str, region: Span, added_tokens: Sequence[Span]) -> Answer | None:
    """The answer whose content ends right before an added token; without one, where the content occurs exactly once."""
    start, stop = region
    if not content:
        return None
    begins = {span[0]: span for span in added_tokens if start <= span[0] and span[1] <= stop}
    wanted = content.strip()
    ends: list[int] = []
    at = text.rfind(wanted, start, stop)
    while at >= 0:
        end = at + len(wanted)
        token = begins.get(stop - len(text[end:stop].lstrip()))
        if token is not None:
            return Answer((start, token[1]), token)
        ends.append(end)
        at = text.rfind(wanted, start, end - 1)
    return Answer((start, ends[0]), None) if len(ends) == 1 else None
