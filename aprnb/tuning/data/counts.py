"""What happened to rows on their way to tokens: counts, their warnings, and the error when none is left (no torch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aprnb.errors import DataError
from aprnb.printable import and_more


@dataclass
class Counts:
    """End tokens are those of examples that were kept; `texts` and `tokens` are rows without turns."""

    kept: int = 0
    without_answer: int = 0
    too_long: int = 0
    shortened: int = 0
    last_turn_only: int = 0
    control_text: int = 0
    straddling: int = 0
    texts: int = 0
    tokens: int = 0
    end_tokens: Counter[int] = field(default_factory=Counter)
    rejected: list[str] = field(default_factory=list)

    def require_usable(self, usable: int, max_seq_len: int) -> None:
        """Raises DataError where rows were rejected, none is left, or no answer has an end."""
        if self.rejected:
            more = f" ({and_more(len(self.rejected) - 1)})" if len(self.rejected) > 1 else ""
            action = "change the rows, or give a template with --chat-template"
            raise DataError(self.rejected[0] + more, action=action)
        if not usable:
            raise DataError(
                f"no row has tokens to train on: {self.without_answer:,} without an answer,"
                f" {self.too_long:,} longer than --max-seq-len {max_seq_len},"
                f" {self.straddling:,} whose answer shares a token with the prompt",
                action="give rows with an assistant turn, or a larger --max-seq-len",
            )
        if not (self.end_tokens or self.tokens):
            raise DataError(
                "no end-of-turn token is labelled, so the model would never learn to stop",
                expected="a chat template that ends answers with one of the tokenizer's added tokens",
                action="give a template with --chat-template",
            )

    def warnings(self, tokenizer: Any) -> Iterator[str]:
        """What the user should know of the rows."""
        if self.last_turn_only:
            yield (
                f"{self.last_turn_only:,} conversation(s): the chat template rewrites earlier answers;"
                " only the last one is trained on"
            )
        if self.control_text:
            yield f"{self.control_text:,} row(s) contain control tokens as text, which the model reads as such"
        if self.straddling:
            shares = "the answer's first characters share a token with the prompt"
            yield f"{self.straddling:,} row(s): {shares}: not trained"
        if self.too_long:
            yield f"{self.too_long:,} row(s) are left out: what they train does not fit into --max-seq-len"
        if self.texts and tokenizer.eos_token_id is None:
            yield f"{self.texts:,} plain text(s) have no end: the tokenizer has no end token"
        if self.tokens and not self.end_tokens:
            yield f"the {self.tokens:,} tokenised row(s) train no end token: the model may never stop"
        if self.end_tokens and (tokenizer.eos_token_id is None or tokenizer.eos_token_id not in self.end_tokens):
            ends = ", ".join(repr(tokenizer.convert_ids_to_tokens(number)) for number in sorted(self.end_tokens))
            named = f"the tokenizer's end token is {tokenizer.eos_token!r}"
            yield f"answers end with {ends}, {named}: other programs may not stop"
