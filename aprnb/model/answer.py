"""A generated answer and how it is shown (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Document, Messages, Paragraph, Passage
from aprnb.errors import Interrupted
from aprnb.model.answer_text import StopReason
from aprnb.printable import short
from aprnb.units import duration_text


@dataclass(frozen=True, slots=True)
class Generation(Displayed):
    """A generated answer; `str()` is its text.

    Attributes:
        prompt: the text that was tokenized, with the chat template applied.
        ids: the new token ids, the end token included.
        text: the new tokens as text, without special tokens, up to the stop text.
        stop_reason: "eos" (an end token), "stop" (a stop text), "length" (the maximum length) or "interrupted".
        stop_id: the end token, or the special token that was given as a stop text; else None.
        stop_text: the end token's text, or the stop text that was reached; else None.
        prompt_tokens: the number of the prompt's tokens.
        seed: of sampling; None for greedy decoding.
        notices: facts about this generation, such as memory that it took or what was assumed of the file.
        first_token_s: seconds until the first token; None where there is no token.
        seconds: all the time that generation took.
    """

    prompt: str
    ids: tuple[int, ...]
    text: str
    stop_reason: StopReason
    stop_id: int | None
    stop_text: str | None
    prompt_tokens: int
    seed: int | None
    notices: tuple[str, ...]
    first_token_s: float | None = field(compare=False)
    seconds: float = field(compare=False)

    def __str__(self) -> str:
        return self.text

    @property
    def exit_code(self) -> int:
        """0, or 130 for an interrupted generation."""
        return Interrupted.exit_code if self.stop_reason == "interrupted" else 0

    @property
    def tokens_per_s(self) -> float | None:
        """New tokens per second after the first one, which waits for the prompt; None below two tokens."""
        if self.first_token_s is None or len(self.ids) < 2 or self.seconds <= self.first_token_s:
            return None
        return (len(self.ids) - 1) / (self.seconds - self.first_token_s)

    @property
    def outcome(self) -> str:
        """The number of tokens and why it stopped: `7 tokens, stopped at the end token 3`."""
        count = f"{len(self.ids):,} token{'' if len(self.ids) == 1 else 's'}"
        if self.stop_reason == "eos":
            return f"{count}, stopped at the end token {self.stop_text} ({self.stop_id})"
        if self.stop_reason == "stop":
            return f"{count}, stopped at the text {short(self.stop_text)}"
        return f"{count}, {'interrupted' if self.stop_reason == 'interrupted' else 'stopped at the maximum length'}"

    @property
    def speed(self) -> str:
        """`4.2 tokens/s, the first after 1.3 s`; empty without a second token."""
        if self.tokens_per_s is None or self.first_token_s is None:
            return ""
        return f"{self.tokens_per_s:,.1f} tokens/s, the first after {duration_text(self.first_token_s)}"

    def to_json(self) -> dict[str, Any]:
        """The fields by name, and `tokens_per_s`."""
        names = ("prompt", "ids", "text", "stop_reason", "stop_id", "stop_text", "prompt_tokens", "seed", "notices")
        times = {"first_token_s": self.first_token_s, "seconds": self.seconds, "tokens_per_s": self.tokens_per_s}
        rounded = {name: None if value is None else round(value, 3) for name, value in times.items()}
        found = {name: getattr(self, name) for name in names}
        return {**found, "ids": list(self.ids), "notices": list(self.notices), **rounded}

    def document(self) -> Document:
        """The text and why it stopped; no times, so that equal answers are shown equally."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        blocks: list[Block] = [Passage(self.text), Paragraph(self.outcome + seed)]
        if self.notices:
            blocks.append(Messages("assumption", self.notices))
        return Document("Answer", "warning" if self.stop_reason == "interrupted" else None, tuple(blocks))
