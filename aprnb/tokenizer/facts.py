"""The tokenizer that the metadata describes, as data; without torch, transformers and tokenizers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from aprnb.errors import TokenizerError
from aprnb.formats.gguf.metadata import key_name
from aprnb.formats.huggingface.tokenizer_json import REST, stated_pairs, stated_tokens
from aprnb.tokenizer.merges import MAX_MERGES, Merges, merges_from_scores, read_merges, read_pairs
from aprnb.tokenizer.rules import ADD_TOKENIZER
from aprnb.tokenizer.vocabulary import (
    BYTE_PIECE,
    CONTROL,
    MAX_VOCABULARY,
    UNKNOWN,
    USER_DEFINED,
    UsedTokens,
    byte_symbols,
    checked_numbers,
    checked_strings,
    of_types,
    used_tokens,
)

Kind = Literal["byte-level BPE", "SentencePiece BPE"]
MAX_ADDED_TOKENS = 16_384  # published vocabularies have at most some 6,000 (gemma 3)

_SENTENCEPIECE_TYPES = ("llama", "spm", "sentencepiece", "unigram")
_PIECE_CONTROLS = frozenset({"<unk>", "<s>", "</s>", "<pad>"})


@dataclass(frozen=True)
class TokenizerFacts:
    """What the file holds; `tokens` maps each used id to its string, `added` the ids outside the merges."""

    kind: Kind
    vocabulary_size: int
    tokens: Mapping[int, str]
    merges: Merges
    added: Mapping[int, bool]
    """Id of each added token → whether it is special."""
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    add_bos: bool | None
    warnings: tuple[str, ...]
    add_space: bool | None = None
    """Whether a space is added before SentencePiece text; None where the file does not state it."""
    add_eos: bool = False
    unk_id: int | None = None


def has_tokenizer(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata contain a vocabulary."""
    return bool(metadata.get("tokenizer.vocabulary"))


def read_facts(metadata: Mapping[str, Any]) -> TokenizerFacts:
    """The tokenizer in the metadata, checked.

    Raises TokenizerError where lists have the wrong type, a merge gives no token of the vocabulary, or the metadata do
    not determine the kind.
    """
    vocabulary = checked_strings(metadata, "tokenizer.vocabulary", MAX_VOCABULARY)
    types = checked_numbers(metadata, "tokenizer.token_type", len(vocabulary))
    kind = tokenizer_kind(metadata, vocabulary)
    added, stated = stated_tokens(metadata)
    tokens, strings, warnings = used_tokens(vocabulary, types, metadata.get("tokenizer.merges"), stated)
    special_ids = {name: _token_id(metadata, name, tokens, warnings) for name in ("bos", "eos", "padding", "unknown")}
    named = frozenset(special_ids[name] for name in ("bos", "eos", "padding")) - {None}
    marked = _Marked(kind, tokens, types, named)
    merges = _merges(metadata, tokens, strings, marked)
    if added is None:
        added = marked.added() if types else marked.unmade(merges)
    add_space = metadata.get("tokenizer.add_space_prefix")
    add_bos, add_eos = (metadata.get(f"tokenizer.add_{name}_token") for name in ("bos", "eos"))
    return TokenizerFacts(
        kind=kind,
        vocabulary_size=len(vocabulary),
        tokens=tokens,
        merges=merges,
        added=_bounded(added),
        bos_id=special_ids["bos"],
        eos_id=special_ids["eos"],
        pad_id=special_ids["padding"],
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        warnings=tuple(warnings),
        add_space=add_space if isinstance(add_space, bool) else None,
        add_eos=add_eos is True,
        unk_id=special_ids["unknown"],
    )


def _merges(metadata: Mapping[str, Any], tokens: UsedTokens, strings: set[str], marked: _Marked) -> Merges:
    """As pairs, as texts, or from scores."""
    pairs = stated_pairs(metadata)
    if pairs is not None:
        return read_pairs(pairs, strings)
    if metadata.get("tokenizer.merges"):
        return read_merges(checked_strings(metadata, "tokenizer.merges", MAX_MERGES), tokens, strings)
    scores = checked_numbers(metadata, "tokenizer.scores", len(tokens.vocabulary))
    return merges_from_scores(tokens, scores, marked.controls())


def tokenizer_kind(metadata: Mapping[str, Any], vocabulary: list[str]) -> Kind:
    """The kind of the tokenizer; raises TokenizerError for an unsupported one."""
    stated = metadata.get("tokenizer.model_type") or metadata.get("tokenizer.model")
    named = stated.lower() if isinstance(stated, str) and len(stated) <= 64 else ""
    merges, scores = metadata.get("tokenizer.merges"), metadata.get("tokenizer.scores")
    pieces = "▁" in vocabulary or "<0x0A>" in vocabulary
    # gemma's pieces include Ġ and Ċ, as ordinary letters
    byte_level = named == "gpt2" or _has_byte_level_step(metadata.get(REST)) or not pieces
    if named not in _SENTENCEPIECE_TYPES and byte_level and "Ġ" in vocabulary and "Ċ" in vocabulary:
        if not merges:
            raise TokenizerError("the file's byte-level vocabulary has no merges", action=ADD_TOKENIZER)
        return "byte-level BPE"
    if pieces and (merges or (scores and named != "unigram" and _are_ranks(scores))):
        return "SentencePiece BPE"
    what = "unigram" if named == "unigram" or scores else f"{named or 'unnamed'}"
    raise TokenizerError(
        f"the file's tokenizer is of kind {what!r} ({len(vocabulary):,} entries), which its metadata does not define",
        expected="byte-level BPE with merges, or SentencePiece BPE with merges or rank scores",
        action=ADD_TOKENIZER,
    )


def _has_byte_level_step(rest: Any) -> bool:
    """Whether `hf_tokenizer` encodes or decodes bytes as letters."""
    parts = [rest.get(part) for part in ("pre_tokenizer", "decoder")] if isinstance(rest, Mapping) else []
    steps = [part for part in parts if isinstance(part, Mapping)]
    for inner in [step.get(key) for step in steps for key in ("pretokenizers", "decoders")]:
        steps += [step for step in inner if isinstance(step, Mapping)] if isinstance(inner, list) else []
    return any(step.get("type") == "ByteLevel" for step in steps)


def _are_ranks(scores: Any) -> bool:
    """Whether scores are whole and never positive: ranks of merges (BPE), not logarithms of probabilities (unigram)."""
    if not isinstance(scores, list) or not set(map(type, scores)) <= {int, float, bool}:
        return False
    try:
        values = np.array(scores, np.float64)
    except OverflowError:  # an integer that is too large for a floating-point number
        return False
    return bool((np.isfinite(values) & (values <= 0) & (values == np.floor(values))).all())


def _token_id(metadata: Mapping[str, Any], name: str, tokens: Mapping[int, str], warnings: list[str]) -> int | None:
    key = f"tokenizer.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in tokens:
        found = str(value)[:40] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        warnings.append(f"{key_name(metadata, key)} is {found}, which is not a token of the vocabulary; it is not used")
        return None
    return value


@dataclass(frozen=True)
class _Marked:
    """Tokens outside the merges, by the file's token types and special ids, else by what makes a token."""

    kind: Kind
    tokens: UsedTokens
    types: list[Any]
    named: frozenset[Any]

    def controls(self) -> set[int]:
        """Ids of a SentencePiece vocabulary that are no pieces."""
        if self.types:
            return set(self._typed(CONTROL, UNKNOWN)) | self.named
        return {at for at, text in self.tokens.items() if text in _PIECE_CONTROLS} | self.named

    def added(self) -> dict[int, bool]:
        """Id → whether it is special, as the token types say it and llama.cpp reads them."""
        typed = {number: self.types[number] != USER_DEFINED for number in self._typed(CONTROL, UNKNOWN, USER_DEFINED)}
        typed |= dict.fromkeys(self.named, True)
        return {number: typed[number] for number in sorted(typed)}

    def unmade(self, merges: Merges) -> dict[int, bool]:
        """Id → whether it is special, of tokens that neither the alphabet nor a merge makes."""
        unmade = set(self.tokens.values())
        for left, right in merges:
            unmade.discard(left + right)
        byte_level = self.kind == "byte-level BPE"
        symbols, controls = (byte_symbols(), frozenset()) if byte_level else (frozenset(), _PIECE_CONTROLS)

        def is_added(number: int, text: str) -> bool:
            if number in self.named or text in controls:
                return True
            if text not in unmade or text in symbols:
                return False
            return byte_level or (len(text) > 1 and not BYTE_PIECE.fullmatch(text))

        def is_special(number: int, text: str) -> bool:
            marked = re.fullmatch(r"<\|.*\|>", text, re.DOTALL)
            return number in self.named or text in controls or marked is not None

        found = (item for item in self.tokens.items() if is_added(*item))
        return {number: is_special(number, text) for number, text in islice(found, MAX_ADDED_TOKENS + 1)}

    def _typed(self, *kinds: int) -> list[int]:
        """Ids of the tokens of these types."""
        typed = np.frombuffer(of_types(self.types, *kinds), bool)
        return np.flatnonzero(typed & np.frombuffer(self.tokens.used, bool)).tolist()


def _bounded(added: dict[int, bool]) -> dict[int, bool]:
    if len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(
            f"over {MAX_ADDED_TOKENS:,} entries of the vocabulary are not made by a merge",
            expected=f"at most {MAX_ADDED_TOKENS:,} added tokens", action=ADD_TOKENIZER,
        )  # fmt: skip
    return added
