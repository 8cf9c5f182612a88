"""What a chat template writes around each message, found by rendering a few conversations.

Most published templates (ChatML, Llama 3, Gemma, Phi-3, Mistral, Zephyr …) write fixed text before and after each
message. The pieces are cut out of conversations of known texts, put together again for others, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aprnb.errors import TokenizerError
from aprnb.tokenizer.chat_template import Request, render_all

Messages = Sequence[Mapping[str, str]]
_SYSTEM, _FIRST, _ANSWER, _SECOND = "Speak plainly 7301.", "What is 41 + 7302?", "It is 7343 7303.", "And twice 7304?"


@dataclass(frozen=True)
class Turns:
    """The text around messages; `head` begins a conversation without a system message.

    `begin` begins one with a system message, whose text is `system` (before, after): as a turn of its own, or
    `inside_user` the first question. Empty where the template rejects one: `takes_system` is False.
    """

    head: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    system: tuple[str, str] = ("", "")
    takes_system: bool = False
    inside_user: bool = False

    @property
    def default_system(self) -> str:
        """The system text that the template writes where the conversation has none."""
        before, after = self.system
        own_turn = self.takes_system and not self.inside_user and len(self.head) > len(before) + len(after)
        fits = own_turn and before and self.head.startswith(before) and self.head.endswith(after)
        return self.head[len(before) : len(self.head) - len(after)] if fits else ""

    def render(self, messages: Messages) -> str:
        """The conversation with the beginning of an answer."""
        system = "".join(message["content"] for message in messages if message["role"] == "system")
        parts = [] if system and not self.inside_user else [self.head]
        for message in messages:
            before, after = getattr(self, message["role"])
            if message["role"] == "system" and self.inside_user:
                continue
            if message["role"] == "user" and system and self.inside_user:
                before, system = before + self.system[0] + system + self.system[1], ""
            parts += [before, message["content"], after]
        return "".join([*parts, self.generation])


def find_turns(tokenizer: Any) -> Turns | None:
    """The turns of the tokenizer's template, without the token that begins a text; None where it has other rules.

    Raises TokenizerError where the template cannot be used at all.
    """
    rendered = _rendered(tokenizer)
    plain = None if None in rendered[:3] else _plain_turns(str(rendered[0]), str(rendered[1]), _special(tokenizer))
    if plain is None:
        return None
    turns = _with_system(plain, rendered[3])
    checked = zip(_PROBES, rendered, strict=True)
    fits = all(
        text == turns.render(messages) if text is not None else not turns.takes_system for messages, text in checked
    )
    return turns if fits else None


def _conversation(*texts: str, system: bool = False) -> list[dict[str, str]]:
    roles = [*(["system"] if system else []), *["user", "assistant"] * len(texts)]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


_PROBES: tuple[list[dict[str, str]], ...] = (
    _conversation(_FIRST),
    _conversation(_FIRST, _ANSWER, _SECOND),
    _conversation(_FIRST, _ANSWER, _SECOND, "Yes.\nIt is.", "A third\n\nquestion {{ x }}?"),
    _conversation(_SYSTEM, _FIRST, system=True),
    _conversation(_SYSTEM, _FIRST, _ANSWER, _SECOND, system=True),
    _conversation("Other\nrules.", "Ja?", "Nein.", "Doch.", "Ach.", "So.", system=True),
)


def _rendered(tokenizer: Any) -> list[str | None]:
    """The probes without the first token, which Ollama adds by itself; None where the template rejects one."""
    begin = tokenizer.bos_token or ""
    found = render_all(tokenizer, [Request(messages, True) for messages in _PROBES])
    return [None if one.text is None else one.text.removeprefix(begin) for one in found]


def _special(tokenizer: Any) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _plain_turns(one: str, two: str, special: Sequence[str]) -> Turns | None:
    """From [first] and [first, answer, second], both followed by the beginning of an answer."""
    if one.count(_FIRST) != 1 or any(two.count(text) != 1 for text in (_FIRST, _ANSWER, _SECOND)):
        return None
    before_first, after_first = two.split(_FIRST)
    to_answer, rest = after_first.split(_ANSWER) if _ANSWER in after_first else ("", "")
    if _SECOND not in rest:
        return None
    to_second, generation = rest.split(_SECOND)
    user_after = _up_to_token(_common_beginning(to_answer, generation), special)
    user_before = _common_beginning(before_first[::-1], to_second[::-1])[::-1]
    user_before = user_before.removeprefix(user_after)  # a turn before ends like this one
    return Turns(
        head=before_first.removesuffix(user_before),
        user=(user_before, user_after),
        assistant=(to_answer.removeprefix(user_after), to_second.removesuffix(user_before)),
        generation=generation.removeprefix(user_after),
    )


def _common_beginning(one: str, other: str) -> str:
    shorter = min(len(one), len(other))
    return one[: next((at for at in range(shorter) if one[at] != other[at]), shorter)]


def _up_to_token(text: str, special: Sequence[str]) -> str:
    """The end of a turn: up to its first special token and the line's end after it; all where there is none."""
    at = min((found + len(token) for token in special if (found := text.find(token)) >= 0), default=len(text))
    return text[: at + 1] if text[at : at + 1] == "\n" else text[:at]


def _with_system(plain: Turns, rendered: str | None) -> Turns:
    """With what [system, first] shows, where the template takes a system message."""
    if rendered is None or rendered.count(_SYSTEM) != 1 or rendered.count(_FIRST) != 1:
        return plain
    before, rest = rendered.split(_SYSTEM)
    between = rest.split(_FIRST)[0]
    user_before = plain.user[0]
    inside = bool(user_before) and before == plain.head + user_before
    inside = inside or not between.endswith(user_before)
    if inside:
        return Turns(plain.head, plain.user, plain.assistant, plain.generation,
                     (before.removeprefix(plain.head + user_before), between), True, True)  # fmt: skip
    system = (before, between.removesuffix(user_before))
    return Turns(plain.head, plain.user, plain.assistant, plain.generation, system, True)


def turns_or_none(tokenizer: Any) -> Turns | None:
    """`find_turns`, None also for a template that cannot be used."""
    try:
        return find_turns(tokenizer)
    except TokenizerError:
        return None
