"""The tokenizer that the metadata describes, as data; without torch, transformers and tokenizers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, Literal

import numpy as np

from aprnb.errors import TokenizerError
from aprnb.tokenizer.merges import MAX_MERGES, Merges, merges_of_splits, split_pieces, written_merges
from aprnb.tokenizer.rules import ADD_TOKENIZER
from aprnb.tokenizer.vocabulary import (
    BYTE_PIECE,
    CONTROL,
    MAX_VOCABULARY,
    USER_DEFINED,
    UsedTokens,
    byte_symbols,
    checked_numbers,
    checked_strings,
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
    merges: Collection[tuple[str, str]]
    added: Mapping[int, bool]
    """Id of each added token → whether it is special."""
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    add_bos: bool | None
    warnings: tuple[str, ...]
    add_space: bool | None = None
    """Whether a space is added before SentencePiece text; None where the file does not state it."""


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
    tokens, made, warnings = used_tokens(vocabulary, types)
    special_ids = {name: _token_id(metadata, name, tokens, warnings) for name in ("bos", "eos", "padding")}
    is_made = np.zeros(len(vocabulary), bool)
    if metadata.get("tokenizer.merges"):
        merges = _read_merges(metadata, made)
        is_made[np.frombuffer(tokens.used, bool)] = np.fromiter(map(made.__getitem__, tokens.values()), bool)
    else:
        made.clear()
        controls = {tokens[number] for number in special_ids.values() if number is not None} | _PIECE_CONTROLS
        splits = split_pieces(tokens, checked_numbers(metadata, "tokenizer.scores", len(vocabulary)), controls)
        merges = merges_of_splits(tokens, *splits)
        is_made[splits[0]] = True
    add_bos, add_space = metadata.get("tokenizer.add_bos_token"), metadata.get("tokenizer.add_space_prefix")
    return TokenizerFacts(
        kind=kind,
        vocabulary_size=len(vocabulary),
        tokens=tokens,
        merges=merges,
        added=_added_tokens(kind, tokens, is_made, types, special_ids),
        bos_id=special_ids["bos"],
        eos_id=special_ids["eos"],
        pad_id=special_ids["padding"],
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        warnings=tuple(warnings),
        add_space=add_space if isinstance(add_space, bool) else None,
    )


def tokenizer_kind(metadata: Mapping[str, Any], vocabulary: list[str]) -> Kind:
    """The kind of the tokenizer; raises TokenizerError for an unsupported one."""
    stated = metadata.get("tokenizer.model_type") or metadata.get("tokenizer.model")
    named = stated.lower() if isinstance(stated, str) and len(stated) <= 64 else ""
    merges, scores = metadata.get("tokenizer.merges"), metadata.get("tokenizer.scores")
    if "Ġ" in vocabulary and "Ċ" in vocabulary and named not in _SENTENCEPIECE_TYPES:
        if not merges:
            raise TokenizerError("the file's byte-level vocabulary has no merges", action=ADD_TOKENIZER)
        return "byte-level BPE"
    pieces = "▁" in vocabulary or "<0x0A>" in vocabulary
    if pieces and (merges or (scores and named != "unigram" and _are_ranks(scores))):
        return "SentencePiece BPE"
    what = "unigram" if named == "unigram" or scores else f"{named or 'unnamed'}"
    raise TokenizerError(
        f"the file's tokenizer is of kind {what!r} ({len(vocabulary):,} entries), which its metadata does not define",
        expected="byte-level BPE with merges, or SentencePiece BPE with merges or rank scores",
        action=ADD_TOKENIZER,
    )


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
        warnings.append(f"metadata {key} is {found}, which is not a token of the vocabulary; it is not used")
        return None
    return value


def _read_merges(metadata: Mapping[str, Any], made: dict[str, bool]) -> Merges:
    """The merges as written, checked in one pass that sets `made` of each merge's result."""
    texts = checked_strings(metadata, "tokenizer.merges", MAX_MERGES)
    for at, text in enumerate(texts):
        left, space, right = text.partition(" ")
        whole = left + right
        if left not in made or right not in made or whole not in made or not space or " " in right:
            raise _no_merge(at, text, made)
        made[whole] = True
    return written_merges(texts)


def _no_merge(at: int, text: str, tokens: Mapping[str, bool]) -> TokenizerError:
    left, space, right = text.partition(" ")
    if not left or not space or not right or " " in right:
        return TokenizerError(
            f"merge {at:,} is {text[:60]!r}", expected="two parts with one space between", action=ADD_TOKENIZER
        )
    missing = next(each for each in (left, right, left + right) if each not in tokens)
    return TokenizerError(
        f"merge {at:,} ({left[:60]!r} with {right[:60]!r}) needs {missing[:60]!r}, which the vocabulary lacks",
        action=ADD_TOKENIZER,
    )


def _added_tokens(
    kind: Kind, tokens: UsedTokens, is_made: np.ndarray, types: list[Any], special_ids: Mapping[str, int | None]
) -> dict[int, bool]:
    """Ids that neither the alphabet nor a merge makes, plus those marked as control or user-defined."""
    symbols = byte_symbols() if kind == "byte-level BPE" else frozenset()
    named = {number for number in special_ids.values() if number is not None}

    def is_added(number: int, text: str) -> bool:
        if number in named or (types and types[number] in (CONTROL, USER_DEFINED)):
            return True
        if kind == "byte-level BPE":
            return not is_made[number] and text not in symbols
        return text in _PIECE_CONTROLS or (not is_made[number] and len(text) > 1 and not BYTE_PIECE.fullmatch(text))

    asked = ~is_made
    asked[list(named)] = True
    if types:
        asked |= np.fromiter(map((CONTROL, USER_DEFINED).__contains__, types), bool)
    if kind == "SentencePiece BPE":
        asked |= np.fromiter(map(_PIECE_CONTROLS.__contains__, tokens.vocabulary), bool)
    asked &= np.frombuffer(tokens.used, bool)
    found = (number for number in compress(range(len(asked)), asked.tobytes()) if is_added(number, tokens[number]))
    added = list(islice(found, MAX_ADDED_TOKENS + 1))
    if len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(
            f"over {MAX_ADDED_TOKENS:,} entries of the vocabulary are not made by a merge",
            expected=f"at most {MAX_ADDED_TOKENS:,} added tokens", action=ADD_TOKENIZER,
        )  # fmt: skip
    controls = _PIECE_CONTROLS if kind == "SentencePiece BPE" else frozenset()
    return {
        number: number in named
        or (bool(types) and types[number] == CONTROL)
        or tokens[number] in controls
        or re.fullmatch(r"<\|.*\|>", tokens[number], re.DOTALL) is not None
        for number in added
    }
