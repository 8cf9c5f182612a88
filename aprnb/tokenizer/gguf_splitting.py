"""How a tokenizer splits text, in GGUF's terms: by rule, or by trying where the source's own tokenizer is available.

GGUF names a few ways of splitting and contains no tokenizer.json; a tokenizer that none of them reproduces is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aprnb.errors import TokenizerError
from aprnb.tokenizer.embedded_tokenizer import embedded_tokenizer
from aprnb.tokenizer.facts import TokenizerFacts
from aprnb.tokenizer.rules import PRE_TOKENIZERS, choose_pre_tokenizer
from aprnb.tokenizer.sandbox.tokenizer_process import ORDINARY_TEXTS

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Splitting:
    """`pre` is the byte-level pre-tokenizer (None for SentencePiece), `add_space` a space in front of text."""

    pre: str | None
    add_space: bool
    add_bos: bool


def settle_splitting(metadata: Mapping[str, Any], facts: TokenizerFacts, model_type: str) -> Splitting:
    """The splitting that gives the source's tokens.

    Raises TokenizerError where GGUF has no such splitting, or the metadata do not determine it.
    """
    whole, _ = embedded_tokenizer(metadata)
    if whole is not None:
        return _found_by_trying(whole, facts, _order(metadata, model_type))
    byte_level = facts.kind == "byte-level BPE"
    pre = choose_pre_tokenizer(metadata, model_type)[0] if byte_level else None
    # Where the file does not state it: as in our own tokenizer, since llama.cpp decides by the pre-tokenizer's name.
    adds_bos = not byte_level if facts.add_bos is None else facts.add_bos
    return Splitting(pre, facts.add_space is not False, adds_bos and facts.bos_id is not None)


def _found_by_trying(whole: Mapping[str, Any], facts: TokenizerFacts, names: list[str]) -> Splitting:
    from aprnb.tokenizer.fast_tokenizer import parsed_tokenizer

    source = parsed_tokenizer(whole, "the source's tokenizer.json")
    expected = [source.encode(text, add_special_tokens=False).ids for text in ORDINARY_TEXTS]
    plain = replace(facts, add_bos=False)
    for splitting, tokenizer in _ways(plain, names):
        if [tokenizer.encode(text, add_special_tokens=False).ids for text in ORDINARY_TEXTS] == expected:
            return replace(splitting, add_bos=_puts_bos(source, facts))
    raise TokenizerError(
        "GGUF cannot express how this tokenizer splits text", expected=f"one of {', '.join(names)}",
        action="convert to .apr or a folder, which keep the whole tokenizer",
    )  # fmt: skip


def _ways(facts: TokenizerFacts, names: list[str]) -> Iterator[tuple[Splitting, Tokenizer]]:
    from aprnb.tokenizer.fast_tokenizer import byte_level_tokenizer, sentencepiece_tokenizer

    if facts.kind == "byte-level BPE":
        for name in names:
            yield Splitting(name, True, False), byte_level_tokenizer(facts, name, compose=False)
    else:
        for add_space in (True, False):
            yield Splitting(None, add_space, False), sentencepiece_tokenizer(replace(facts, add_space=add_space))


def _puts_bos(source: Tokenizer, facts: TokenizerFacts) -> bool:
    """Whether the tokenizer adds a first token to a text; raises where it adds others."""
    bare, dressed = (source.encode(ORDINARY_TEXTS[0], add_special_tokens=special).ids for special in (False, True))
    if dressed == bare:
        return False
    if facts.bos_id is not None and dressed == [facts.bos_id, *bare]:
        return True
    raise TokenizerError("this tokenizer adds more to a text than one first token, which GGUF cannot express")


def _order(metadata: Mapping[str, Any], model_type: str) -> list[str]:
    """Every byte-level splitting, the likeliest first."""
    try:
        likely = [choose_pre_tokenizer(metadata, model_type)[0]]
    except TokenizerError:
        likely = []
    return list(dict.fromkeys([*likely, *sorted(set(PRE_TOKENIZERS.values()))]))
