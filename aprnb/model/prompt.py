"""A prompt made ready for generation: its tokens, checked against the context; where its answer stops (no torch)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aprnb.errors import ChatTemplateError, UsageProblem
from aprnb.printable import short
from aprnb.tokenizer.chat_template import CHOOSE_ANOTHER, Rendering, Request, render_all, require_template
from aprnb.tokenizer.end_tokens import answered_turn, end_of_turn
from aprnb.tokenizer.sandbox.tokenizer_process import interruptible

ENCODE_S = 60.0
"""For one prompt or answer; a published tokenizer takes milliseconds."""
DEFAULT_NEW_TOKENS = 256
_RAW_OR_TEMPLATE = f"give --raw if it is a base model, which continues a text, or {CHOOSE_ANOTHER}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model sees it, and where its answer stops.

    Attributes:
        text: the text that was encoded.
        ids: its tokens.
        end_ids: tokens that end an answer.
        stop_ids: stop texts that are special tokens, by id.
        stops: the other stop texts, which are searched for in the answer's text.
        max_new_tokens: the largest number of new tokens.
    """

    text: str
    ids: tuple[int, ...]
    end_ids: frozenset[int]
    stop_ids: Mapping[int, str]
    stops: tuple[str, ...]
    max_new_tokens: int = DEFAULT_NEW_TOKENS


def read_prompt(tokenizer: Any, prompt: str, *, raw: bool, system: str | None, stop: str | Iterable[str]) -> Prompt:
    """The prompt, encoded by `tokenizer`, a CheckpointTokenizer or one of `transformers`.

    Its answer ends at the tokenizer's end token and the template's end of turn. Raises UsageProblem and TokenizerError
    as `generate` says.
    """
    _require_text("the prompt", prompt)
    stop_ids, stops = _stops(tokenizer, stop)
    text, turn_end = _unchanged(tokenizer, prompt, system) if raw else _in_template(tokenizer, prompt, system)
    encode = partial(tokenizer.encode, text, add_special_tokens=False)
    ids = tuple(interruptible(encode, "the tokenizer cannot encode the prompt", ENCODE_S))
    if raw:
        ids = _with_bos(tokenizer, text, ids)
    if not ids:
        raise UsageProblem("the prompt has no tokens", expected="some text")
    ends = (number for number in (turn_end, tokenizer.eos_token_id) if number is not None)
    return Prompt(text, ids, frozenset(ends), stop_ids, stops)


def fit_prompt(prompt: Prompt, positions: int, max_new_tokens: int | None, end_ids: Collection[int]) -> Prompt:
    """The prompt for a model with so many `positions`, whose answers also end at `end_ids`.

    Without `max_new_tokens` the answer has the default length, or what the context leaves. Raises UsageProblem for a
    prompt that does not fit.
    """
    length = len(prompt.ids)
    if length >= positions:
        raise UsageProblem(
            f"the prompt has {length:,} tokens", expected=f"fewer than the model's context of {positions:,}",
            action="shorten the prompt",
        )  # fmt: skip
    wanted = min(DEFAULT_NEW_TOKENS, positions - length) if max_new_tokens is None else max_new_tokens
    if wanted < 1:
        raise UsageProblem(f"--max-new-tokens {wanted}", expected="a whole number of at least 1")
    if length + wanted > positions:
        raise UsageProblem(
            f"prompt of {length:,} tokens and {wanted:,} new ones", expected=f"at most {positions:,} positions",
            action=f"give --max-new-tokens {positions - length} or less",
        )  # fmt: skip
    return replace(prompt, end_ids=prompt.end_ids.union(end_ids), max_new_tokens=wanted)


def _in_template(tokenizer: Any, prompt: str, system: str | None) -> tuple[str, int | None]:
    """`prompt` as the user's message, followed by the start of the answer, and the template's end of turn."""
    require_template(tokenizer, action=_RAW_OR_TEMPLATE)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    asked, answered = render_all(tokenizer, [Request(messages, add_generation_prompt=True), answered_turn()])
    text = _rendered(asked)
    if system and system.strip() not in text:
        raise ChatTemplateError("the chat template does not use the system message", action="leave out --system")
    return text, end_of_turn(answered, tokenizer)


def _unchanged(tokenizer: Any, prompt: str, system: str | None) -> tuple[str, int | None]:
    if system is not None:
        raise UsageProblem("--system with --raw", expected="one of them: a raw prompt has no messages")
    try:
        [answered] = render_all(tokenizer, [answered_turn()])
    except ChatTemplateError:  # a raw prompt needs no usable template
        return prompt, None
    return prompt, end_of_turn(answered, tokenizer)


def _with_bos(tokenizer: Any, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids after the token that the tokenizer puts before a text, unless the text begins with it."""
    bos = tokenizer.bos_token_id
    if bos is None or ids[:1] == (bos,):
        return ids
    encode = partial(tokenizer.encode, text, add_special_tokens=True)
    dressed = interruptible(encode, "the tokenizer cannot encode the prompt", ENCODE_S)
    return (bos, *ids) if dressed[:1] == [bos] else ids


def _rendered(rendering: Rendering) -> str:
    if rendering.text is None:
        raise ChatTemplateError(f"the chat template rejects the conversation: {rendering.problem}")
    return rendering.text


def _stops(tokenizer: Any, stop: str | Iterable[str]) -> tuple[dict[int, str], tuple[str, ...]]:
    """Stop texts that are special tokens, by id, and the others, which are searched for in the text."""
    texts: Sequence[Any] = (stop,) if isinstance(stop, str) else tuple(stop)
    special = {token.content: number for number, token in _special_tokens(tokenizer, texts)}
    for text in texts:
        if not isinstance(text, str) or not text:
            raise UsageProblem(f"--stop {short(text)}", expected="a text that is not empty")
        _require_text("--stop", text)
        inside = next((token for token in special if token in text and token != text), None)
        if inside is not None and text not in special:
            raise UsageProblem(
                f"--stop {short(text)} contains the special token {inside}, which is not part of the text",
                expected="the token alone, or a text without it",
            )
    ids = {special[text]: text for text in texts if text in special}
    return ids, tuple(dict.fromkeys(text for text in texts if text not in special))


def _special_tokens(tokenizer: Any, texts: Sequence[Any]) -> list[tuple[int, Any]]:
    added = tokenizer.added_tokens_decoder.items() if texts else ()
    return [(number, token) for number, token in added if token.special and token.content]


def _require_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageProblem(f"{what} is not text: it contains half of a surrogate pair", expected="UTF-8") from None
