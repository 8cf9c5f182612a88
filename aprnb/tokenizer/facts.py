"""The tokenizer that the metadata describes, as plain data (no torch, transformers or tokenizers)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import compress, count, islice, repeat
from operator import not_
from typing import Any, Literal

import numpy as np

from aprnb.errors import TokenizerError
from aprnb.tokenizer.rules import (
    BYTE_PIECE,
    MAX_MERGES,
    SIBLING,
    Merges,
    UsedTokens,
    byte_symbols,
    merges_of_splits,
    split_pieces,
    written_merges,
)

Kind = Literal["byte-level BPE", "SentencePiece BPE"]
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # of tokenizer.token_type, as GGUF counts them
MAX_ADDED_TOKENS = 16_384  # published vocabularies have at most some 6,000 (gemma 3)
MAX_TOKEN_CHARACTERS = 4_096
MAX_VOCABULARY = 5 << 16
"""327,680; the largest published vocabulary of a language model has 262,208 (gemma 3)."""

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
    """Whether SentencePiece text gets a space in front; None where the file does not say."""


def has_tokenizer(metadata: Mapping[str, Any]) -> bool:
    """Whether the file carries a vocabulary of its own."""
    return bool(metadata.get("tokenizer.vocabulary"))


def read_facts(metadata: Mapping[str, Any]) -> TokenizerFacts:
    """The tokenizer in the metadata, checked.

    Raises TokenizerError where lists have the wrong type, a merge makes no token, or the kind is not one that the
    metadata settles.
    """
    vocabulary = _strings(metadata, "tokenizer.vocabulary", MAX_VOCABULARY)
    types = _numbers(metadata, "tokenizer.token_type", len(vocabulary))
    kind = tokenizer_kind(metadata, vocabulary)
    tokens, made, warnings = _used_tokens(vocabulary, types)
    special_ids = {name: _token_id(metadata, name, tokens, warnings) for name in ("bos", "eos", "padding")}
    is_made = np.zeros(len(vocabulary), bool)
    if metadata.get("tokenizer.merges"):
        merges = _read_merges(metadata, made)
        is_made[np.frombuffer(tokens.used, bool)] = np.fromiter(map(made.__getitem__, tokens.values()), bool)
    else:
        made.clear()
        controls = {tokens[number] for number in special_ids.values() if number is not None} | _PIECE_CONTROLS
        splits = split_pieces(tokens, _numbers(metadata, "tokenizer.scores", len(vocabulary)), controls)
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
    """The kind that the metadata proves; raises TokenizerError for every other one."""
    stated = metadata.get("tokenizer.model_type") or metadata.get("tokenizer.model")
    named = stated.lower() if isinstance(stated, str) and len(stated) <= 64 else ""
    merges, scores = metadata.get("tokenizer.merges"), metadata.get("tokenizer.scores")
    if "Ġ" in vocabulary and "Ċ" in vocabulary and named not in _SENTENCEPIECE_TYPES:
        if not merges:
            raise TokenizerError("the file's byte-level vocabulary comes without merges", action=SIBLING)
        return "byte-level BPE"
    pieces = "▁" in vocabulary or "<0x0A>" in vocabulary
    if pieces and (merges or (scores and named != "unigram" and _are_ranks(scores))):
        return "SentencePiece BPE"
    what = "unigram" if named == "unigram" or scores else f"{named or 'unnamed'}"
    raise TokenizerError(
        f"the file's tokenizer is of kind {what!r} ({len(vocabulary):,} entries), which its metadata does not settle",
        expected="byte-level BPE with merges, or SentencePiece BPE with merges or rank scores",
        action=SIBLING,
    )


def _strings(metadata: Mapping[str, Any], key: str, most: int) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list):
        raise TokenizerError(f"metadata {key} is {type(values).__name__}", expected="a list of strings", action=SIBLING)
    if len(values) > most:
        raise TokenizerError(f"metadata {key} has {len(values):,} entries", expected=f"at most {most:,}")
    if set(map(type, values)) <= {str} and max(map(len, values), default=0) <= MAX_TOKEN_CHARACTERS:
        return values
    for at, value in enumerate(values):
        if not isinstance(value, str) or len(value) > MAX_TOKEN_CHARACTERS:
            found = f"{len(value):,} characters" if isinstance(value, str) else type(value).__name__
            raise TokenizerError(
                f"metadata {key} holds {found} at {at:,}",
                expected=f"a string of at most {MAX_TOKEN_CHARACTERS:,} characters", action=SIBLING,
            )  # fmt: skip
    return values


def _numbers(metadata: Mapping[str, Any], key: str, count: int) -> list[Any]:
    values = metadata.get(key)
    if not values:
        return []
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values):,} values" if isinstance(values, list) else type(values).__name__
        raise TokenizerError(f"metadata {key} holds {found}", expected=f"one number per token ({count:,})")
    if not set(map(type, values)) <= {int, float, bool}:
        raise TokenizerError(f"metadata {key} holds something else than numbers")
    return values


def _are_ranks(scores: Any) -> bool:
    """Whether scores are whole and never positive: ranks of merges (BPE), not logarithms of probabilities (unigram)."""
    if not isinstance(scores, list) or not set(map(type, scores)) <= {int, float, bool}:
        return False
    try:
        values = np.array(scores, np.float64)
    except OverflowError:  # an integer beyond every floating-point number
        return False
    return bool((np.isfinite(values) & (values <= 0) & (values == np.floor(values))).all())


def _used_tokens(vocabulary: list[str], types: list[Any]) -> tuple[UsedTokens, dict[str, bool], list[str]]:
    """Id → string without the holes, each of these strings → False, and what was odd about the list."""
    alphabet_at = next((at for at, text in enumerate(vocabulary) if len(text) == 1), len(vocabulary))
    padded = vocabulary.count("<unk>") > 1
    used = bytearray(kind != UNUSED for kind in types) if types else bytearray(b"\1") * len(vocabulary)
    # importers fill holes with <unk> (one string at many ids) or [PAD<id>]; a real <unk> stands before the alphabet
    for at in compress(count(), map(str.startswith, vocabulary, repeat(("<unk>", "[PAD")))):
        if vocabulary[at] == f"[PAD{at}]" or (vocabulary[at] == "<unk>" and padded and at > alphabet_at):
            used[at] = False
    for at in compress(count(), map(not_, vocabulary)):
        used[at] = False
    strings = dict.fromkeys(compress(vocabulary, used), False)
    warnings = [] if len(strings) == used.count(1) else [_leave_out_repeats(vocabulary, used, strings)]
    return UsedTokens(vocabulary, used), strings, warnings


def _leave_out_repeats(vocabulary: list[str], used: bytearray, strings: dict[str, bool]) -> str:
    """Leaves the first of equal strings in `used`; which they are, as a warning."""
    repeats, shown = 0, []
    for at in compress(range(len(vocabulary)), bytes(used)):
        text = vocabulary[at]
        if strings[text]:
            used[at], repeats = False, repeats + 1
            if repeats <= 3:
                first = next(before for before in compress(range(at), used) if vocabulary[before] == text)
                shown.append(f"{text[:60]!r} at {first} and {at}")
        strings[text] = True
    for text in strings:
        strings[text] = False
    more = f" and {repeats - 3:,} more" if repeats > 3 else ""
    return f"the vocabulary repeats {', '.join(shown)}{more}; the first one counts"


def _token_id(metadata: Mapping[str, Any], name: str, tokens: Mapping[int, str], warnings: list[str]) -> int | None:
    key = f"tokenizer.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in tokens:
        found = str(value)[:40] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        warnings.append(f"metadata {key} is {found}, which is no token of the vocabulary; it is not used")
        return None
    return value


def _read_merges(metadata: Mapping[str, Any], made: dict[str, bool]) -> Merges:
    """The merges as written, checked in one pass that sets `made` of what each of them makes."""
    texts = _strings(metadata, "tokenizer.merges", MAX_MERGES)
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
            f"merge {at:,} is {text[:60]!r}", expected="two parts with one space between", action=SIBLING
        )
    missing = next(each for each in (left, right, left + right) if each not in tokens)
    return TokenizerError(
        f"merge {at:,} ({left[:60]!r} with {right[:60]!r}) needs {missing[:60]!r}, which the vocabulary lacks",
        action=SIBLING,
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
            f"over {MAX_ADDED_TOKENS:,} entries of the vocabulary are made by no merge",
            expected=f"at most {MAX_ADDED_TOKENS:,} added tokens", action=SIBLING,
        )  # fmt: skip
    controls = _PIECE_CONTROLS if kind == "SentencePiece BPE" else frozenset()
    return {
        number: number in named
        or (bool(types) and types[number] == CONTROL)
        or tokens[number] in controls
        or re.fullmatch(r"<\|.*\|>", tokens[number], re.DOTALL) is not None
        for number in added
    }
