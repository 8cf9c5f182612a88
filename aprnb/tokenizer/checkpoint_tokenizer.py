"""A tokenizer without `transformers`: the `tokenizers` backend, its named tokens and its chat template.

A plan encodes rows with it; importing `transformers` and copying a backend of 152k tokens takes longer than the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


class CheckpointTokenizer:
    """The part of a `transformers` tokenizer that encoding conversations needs, with the same names."""

    def __init__(self, backend: Tokenizer, *, untrusted: bool = False, **named: str) -> None:
        """`untrusted`: made of a tokenizer.json, whose steps and regular expressions come from a file."""
        backend.no_truncation()
        backend.no_padding()
        self.backend_tokenizer, self.untrusted = backend, untrusted
        self.special_tokens_map: dict[str, str] = dict(named)
        self.chat_template: str | None = None
        self.template_problem: str | None = None
        """Why there is no chat template, where a file of it exists."""

    def __getattr__(self, name: str) -> Any:
        """`eos_token`, `eos_token_id` and the like; None for a token without a name."""
        if name in NAMES:
            return self.special_tokens_map.get(name)
        if name.removesuffix("_id") in NAMES:
            token = self.special_tokens_map.get(name.removesuffix("_id"))
            return None if token is None else self.backend_tokenizer.token_to_id(token)
        raise AttributeError(name)

    @cached_property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, number: int) -> str | None:
        return self.backend_tokenizer.id_to_token(number)

    def to_transformers(self) -> PreTrainedTokenizerFast:
        """The same tokenizer as `transformers` has it."""
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=self.backend_tokenizer, clean_up_tokenization_spaces=False, **self.special_tokens_map
        )
        tokenizer.chat_template = self.chat_template
        return tokenizer
