"""The tokenizer that the metadata describes, as plain data (no torch, transformers or tokenizers)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aprnb.errors import TokenizerError
from aprnb.inspection.tokenizer_rules import BYTE_PIECE, SIBLING, byte_symbols, choose_pre_tokenizer, merges_from_scores

Kind = Literal["byte-level BPE", "SentencePiece BPE"]
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # of tokenizer.token_type, as GGUF counts them
MAX_ADDED_TOKENS = 16_384  # published vocabularies have at most some 6,000 (gemma 3)
MAX_TOKEN_CHARACTERS = 4_096
MAX_VOCABULARY = 1 << 19  # twice the largest published one of a language model (gemma 3: 262,208)

_SENTENCEPIECE_TYPES = ("llama", "spm", "sentencepiece", "unigram")
_PIECE_CONTROLS = frozenset({"<unk>", "<s>", "</s>", "<pad>"})


@dataclass(frozen=True)
class TokenizerFacts:
    """What the file holds; `tokens` maps each used id to its string, `added` the ids outside the merges."""

    kind: Kind
    vocabulary_size: int
    tokens: Mapping[int, str]
    merges: tuple[tuple[str, str], ...]
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
    vocabulary = _strings(metadata, "tokenizer.vocabulary")
    if len(vocabulary) > MAX_VOCABULARY:
        raise TokenizerError(
            f"the file's vocabulary has {len(vocabulary):,} entries", expected=f"at most {MAX_VOCABULARY:,}"
        )
    types = _numbers(metadata, "tokenizer.token_type", len(vocabulary))
    kind = tokenizer_kind(metadata)
    tokens, warnings = _used_tokens(vocabulary, types)
    special_ids = {name: _token_id(metadata, name, tokens, warnings) for name in ("bos", "eos", "padding")}
    controls = {tokens[number] for number in special_ids.values() if number is not None} | _PIECE_CONTROLS
    merges = _read_merges(metadata) if metadata.get("tokenizer.merges") else None
    if merges is None:
        merges = merges_from_scores(tokens, _scores(metadata, len(vocabulary)), controls)
    _check_merges(merges, set(tokens.values()))
    add_bos, add_space = metadata.get("tokenizer.add_bos_token"), metadata.get("tokenizer.add_space_prefix")
    return TokenizerFacts(
        kind=kind,
        vocabulary_size=len(vocabulary),
        tokens=tokens,
        merges=merges,
        added=_added_tokens(kind, tokens, merges, types, special_ids),
        bos_id=special_ids["bos"],
        eos_id=special_ids["eos"],
        pad_id=special_ids["padding"],
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        warnings=tuple(warnings),
        add_space=add_space if isinstance(add_space, bool) else None,
    )


def tokenizer_kind(metadata: Mapping[str, Any]) -> Kind:
    """The kind that the metadata proves; raises TokenizerError for every other one."""
    vocabulary = _strings(metadata, "tokenizer.vocabulary")
    entries = set(vocabulary)
    named = str(metadata.get("tokenizer.model_type") or metadata.get("tokenizer.model") or "").lower()
    merges, scores = metadata.get("tokenizer.merges"), metadata.get("tokenizer.scores")
    if {"Ġ", "Ċ"} <= entries and named not in _SENTENCEPIECE_TYPES:
        if not merges:
            raise TokenizerError("the file's byte-level vocabulary comes without merges", action=SIBLING)
        return "byte-level BPE"
    pieces = "▁" in entries or "<0x0A>" in entries
    if pieces and (merges or (scores and named != "unigram" and _are_ranks(scores))):
        return "SentencePiece BPE"
    what = "unigram" if named == "unigram" or scores else f"{named or 'unnamed'}"
    raise TokenizerError(
        f"the file's tokenizer is of kind {what!r} ({len(vocabulary):,} entries), which its metadata does not settle",
        expected="byte-level BPE with merges, or SentencePiece BPE with merges or rank scores",
        action=SIBLING,
    )


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list):
        raise TokenizerError(f"metadata {key} is {type(values).__name__}", expected="a list of strings", action=SIBLING)
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
    if not all(isinstance(value, (int, float)) for value in values):
        raise TokenizerError(f"metadata {key} holds something else than numbers")
    return values


def _scores(metadata: Mapping[str, Any], count: int) -> list[float]:
    return [float(value) for value in _numbers(metadata, "tokenizer.scores", count)]


def _are_ranks(scores: Any) -> bool:
    """Whether scores are whole and never positive: ranks of merges (BPE), not logarithms of probabilities (unigram)."""
    return isinstance(scores, list) and all(
        isinstance(score, (int, float)) and math.isfinite(score) and score <= 0 and score == int(score)
        for score in scores
    )


def _used_tokens(vocabulary: list[str], types: list[Any]) -> tuple[dict[int, str], list[str]]:
    """Id → string without the holes, and what was odd about the list."""
    alphabet_at = next((at for at, text in enumerate(vocabulary) if len(text) == 1), len(vocabulary))
    padded = vocabulary.count("<unk>") > 1
    seen: dict[str, int] = {}
    repeated: list[str] = []
    for at, text in enumerate(vocabulary):
        # importers fill holes with <unk> (one string at many ids) or [PAD<id>]; a real <unk> stands before the alphabet
        filler = (text == "<unk>" and padded and at > alphabet_at) or text == f"[PAD{at}]" or not text
        if filler or (types and types[at] == UNUSED):
            continue
        if text in seen:
            repeated.append(f"{text[:60]!r} at {seen[text]} and {at}")
            continue
        seen[text] = at
    shown = ", ".join(repeated[:3]) + (f" and {len(repeated) - 3:,} more" if len(repeated) > 3 else "")
    return {at: text for text, at in seen.items()}, [f"the vocabulary repeats {shown}; the first one counts"] * bool(
        repeated
    )


def _token_id(metadata: Mapping[str, Any], name: str, tokens: Mapping[int, str], warnings: list[str]) -> int | None:
    key = f"tokenizer.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in tokens:
        warnings.append(f"metadata {key} is {str(value)[:40]}, which is no token of the vocabulary; it is not used")
        return None
    return value


def _read_merges(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    merges = []
    for at, text in enumerate(_strings(metadata, "tokenizer.merges")):
        left, space, right = text.partition(" ")
        if not left or not space or not right or " " in right:
            raise TokenizerError(
                f"merge {at:,} is {text[:60]!r}", expected="two parts with one space between", action=SIBLING
            )
        merges.append((left, right))
    return tuple(merges)


def _check_merges(merges: tuple[tuple[str, str], ...], entries: set[str]) -> None:
    for at, (left, right) in enumerate(merges):
        if left in entries and right in entries and left + right in entries:
            continue
        missing = next(text for text in (left, right, left + right) if text not in entries)
        raise TokenizerError(
            f"merge {at:,} ({left[:60]!r} with {right[:60]!r}) needs {missing[:60]!r}, which the vocabulary lacks",
            action=SIBLING,
        )


def _added_tokens(
    kind: Kind,
    tokens: Mapping[int, str],
    merges: tuple[tuple[str, str], ...],
    types: list[Any],
    special_ids: Mapping[str, int | None],
) -> dict[int, bool]:
    """Ids that neither the alphabet nor a merge makes, plus those marked as control or user-defined."""
    made = {left + right for left, right in merges}
    symbols = byte_symbols() if kind == "byte-level BPE" else frozenset()
    named = {number for number in special_ids.values() if number is not None}

    def is_added(number: int, text: str) -> bool:
        if number in named or (types and types[number] in (CONTROL, USER_DEFINED)):
            return True
        if kind == "byte-level BPE":
            return text not in made and text not in symbols
        return text in _PIECE_CONTROLS or (text not in made and len(text) > 1 and not BYTE_PIECE.fullmatch(text))

    added = [number for number, text in tokens.items() if is_added(number, text)]
    if len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(
            f"{len(added):,} entries of the vocabulary are made by no merge",
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


def describe_tokenizer(metadata: Mapping[str, Any], architecture: str | None = None) -> dict[str, Any]:
    """The tokenizer as JSON for the inspection card; never raises: what is wrong stands under `problem`."""
    template = next((key for key in ("chat_template", "tokenizer.chat_template") if metadata.get(key)), None)
    text = metadata[template] if template else None
    described: dict[str, Any] = {
        "kind": None, "vocab_size": None, "used": None, "added": None, "merges": None, "bos": None, "eos": None,
        "pre_tokenizer": None, "problem": None, "warnings": [],
        "chat_template": {"source": f"metadata {template}", "characters": len(text)} if isinstance(text, str) else None,
    }  # fmt: skip
    if not has_tokenizer(metadata):
        return {**described, "problem": "the file carries no tokenizer"}
    try:
        facts = read_facts(metadata)
        described |= _described_facts(facts)
        if facts.kind == "byte-level BPE":
            family = architecture or str(metadata.get("architecture") or "this model")
            name, source, _ = choose_pre_tokenizer(metadata, family)
            described["pre_tokenizer"] = {"name": name, "source": source}
    except TokenizerError as problem:
        described["problem"] = problem.found
    return described


def _described_facts(facts: TokenizerFacts) -> dict[str, Any]:
    def named(number: int | None) -> dict[str, Any] | None:
        return None if number is None else {"id": number, "token": facts.tokens[number]}

    return {
        "kind": facts.kind,
        "vocab_size": facts.vocabulary_size,
        "used": len(facts.tokens),
        "added": len(facts.added),
        "merges": len(facts.merges),
        "bos": named(facts.bos_id),
        "eos": named(facts.eos_id),
        "warnings": list(facts.warnings),
    }
