"""How a tokenizer splits text, in GGUF's terms: by rule, or by trying where the source's own tokenizer is available.

GGUF names a few ways of splitting. A tokenizer that none of them gives is judged in `losses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aprnb.errors import TokenizerError
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
    add_bos: bool = False
    add_eos: bool = False
    unstated: tuple[int, ...] = ()
    """Ids that the source adds around a text and GGUF cannot state."""


def stated_splitting(metadata: Mapping[str, Any], facts: TokenizerFacts, model_type: str) -> Splitting:
    """The splitting that the metadata determine; raises TokenizerError where they do not."""
    byte_level = facts.kind == "byte-level BPE"
    pre = choose_pre_tokenizer(metadata, model_type)[0] if byte_level else None
    named = metadata.get("tokenizer.pre_type")
    # Where the file does not state it: as in our own tokenizer, since llama.cpp decides by the pre-tokenizer's name.
    adds_bos = not byte_level if facts.add_bos is None else facts.add_bos
    return Splitting(
        named if byte_level and isinstance(named, str) and named in PRE_TOKENIZERS else pre,
        facts.add_space is not False,
        adds_bos and facts.bos_id is not None,
        facts.add_eos and facts.eos_id is not None,
    )


def likely_splittings(
    source: Tokenizer, metadata: Mapping[str, Any], facts: TokenizerFacts, model_type: str
) -> list[Splitting]:
    """The splittings that may give the source's ids, the likeliest first."""
    if facts.kind == "byte-level BPE":
        ways = [Splitting(name, True) for name in _likeliest_first(source, metadata, model_type)]
    else:
        prepends = any(piece.startswith("▁") for piece in source.encode("a", add_special_tokens=False).tokens)
        ways = [Splitting(None, prepends), Splitting(None, not prepends)]
    return [_with_added(source, facts, way) for way in ways]


def _likeliest_first(source: Tokenizer, metadata: Mapping[str, Any], model_type: str) -> list[str]:
    """Every byte-level splitting; only the first one that cuts the probes and treats whole words as the source does."""
    from aprnb.tokenizer.fast_tokenizer import WHOLE_WORDS_FIRST, splitter

    try:
        likely = [choose_pre_tokenizer(metadata, model_type)[0]]
    except TokenizerError:
        likely = []
    names = list(dict.fromkeys([*likely, *sorted(set(PRE_TOKENIZERS.values()))]))
    if source.pre_tokenizer is None:
        return names
    cuts = [source.pre_tokenizer.pre_tokenize_str(text) for text in ORDINARY_TEXTS]
    whole_words = bool(getattr(source.model, "ignore_merges", False))

    def distance(name: str) -> tuple[int, bool]:
        own = splitter(name)
        differing = sum(own.pre_tokenize_str(text) != cut for text, cut in zip(ORDINARY_TEXTS, cuts, strict=True))
        return differing, (name in WHOLE_WORDS_FIRST) != whole_words

    distances = {name: distance(name) for name in names}
    nearest = sorted(names, key=distances.__getitem__)
    return nearest[:1] if distances[nearest[0]] == (0, False) else nearest


def _with_added(source: Tokenizer, facts: TokenizerFacts, splitting: Splitting) -> Splitting:
    """With the tokens that the source adds around a text, as far as they are bos in front and eos behind."""
    bare, dressed = (source.encode(ORDINARY_TEXTS[0], add_special_tokens=special).ids for special in (False, True))
    for before, after in [(before, after) for before in (False, True) for after in (False, True)]:
        around = [facts.bos_id] * before + bare + [facts.eos_id] * after
        if around == dressed:
            return replace(splitting, add_bos=before, add_eos=after)
    first = dressed[:1] == [facts.bos_id] and bare[:1] != dressed[:1]
    return replace(splitting, add_bos=first, unstated=tuple(_others(bare, dressed)))


def _others(bare: list[int], dressed: list[int]) -> list[int]:
    """What is in `dressed` around `bare`; all of it where `bare` is not in it."""
    for start in range(len(dressed) - len(bare) + 1):
        if dressed[start : start + len(bare)] == bare:
            return dressed[:start] + dressed[start + len(bare) :]
    return dressed
