"""A checkpoint's tokenizer in the keys of GGUF, so that llama.cpp (and we) get the same tokens from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import TokenizerError
from aprnb.formats.gguf_values import GgufValue
from aprnb.inspection.tokenizer_facts import CONTROL, UNUSED, USER_DEFINED, TokenizerFacts, has_tokenizer, read_facts
from aprnb.inspection.tokenizer_rules import BYTE_PIECE, choose_pre_tokenizer

_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6


def tokenizer_values(metadata: Mapping[str, Any], model_type: str, vocab_size: int) -> dict[str, GgufValue]:
    """The keys of the tokenizer in `.apr` metadata, filled up to `vocab_size` tokens; empty where there is none.

    Raises TokenizerError for a tokenizer that the metadata does not settle, or with more tokens than rows.
    """
    template = metadata.get("chat_template") or metadata.get("tokenizer.chat_template")
    values = {"tokenizer.chat_template": GgufValue("string", template)} if isinstance(template, str) else {}
    if not has_tokenizer(metadata):
        return values
    facts = read_facts(metadata)
    highest = max(facts.tokens, default=-1)
    if highest >= vocab_size:
        raise TokenizerError(f"the tokenizer's highest id is {highest:,}", expected=f"ids below {vocab_size:,}")
    tokens = [facts.tokens.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    found = {
        "tokens": GgufValue("array[string]", tokens),
        "token_type": GgufValue("array[int32]", [_token_type(facts, number) for number in range(vocab_size)]),
    }
    if facts.kind == "byte-level BPE":
        found["model"] = GgufValue("string", "gpt2")
        found["pre"] = GgufValue("string", choose_pre_tokenizer(metadata, model_type)[0])
        found["merges"] = GgufValue("array[string]", [f"{left} {right}" for left, right in facts.merges])
    else:
        found["model"] = GgufValue("string", "llama")
        found["scores"] = GgufValue("array[float32]", _scores(facts, metadata, vocab_size))
    ids = {"bos_token_id": facts.bos_id, "eos_token_id": facts.eos_id, "padding_token_id": facts.pad_id}
    found |= {name: GgufValue("uint32", number) for name, number in ids.items() if number is not None}
    # where the file is silent: what we do with it, since llama.cpp without the key goes by the pre-tokenizer's name
    adds_bos = facts.kind == "SentencePiece BPE" if facts.add_bos is None else facts.add_bos
    found["add_bos_token"] = GgufValue("bool", adds_bos and facts.bos_id is not None)
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()} | values


def _token_type(facts: TokenizerFacts, number: int) -> int:
    text = facts.tokens.get(number)
    if text is None:
        return UNUSED
    if facts.kind == "SentencePiece BPE" and text == "<unk>":
        return _UNKNOWN
    if number in facts.added:
        return CONTROL if facts.added[number] else USER_DEFINED
    return _BYTE if facts.kind == "SentencePiece BPE" and BYTE_PIECE.fullmatch(text) else _NORMAL


def _scores(facts: TokenizerFacts, metadata: Mapping[str, Any], vocab_size: int) -> list[float]:
    """The stored scores, or the ranks of the merges that make each piece: the inverse of how merges come of scores."""
    stored = metadata.get("tokenizer.scores")
    if isinstance(stored, list):
        return ([float(score) for score in stored] + [0.0] * vocab_size)[:vocab_size]
    ranks: dict[str, int] = {}
    for left, right in facts.merges:
        ranks.setdefault(left + right, len(ranks))
    single = len(ranks)
    return [
        -float(ranks.get(facts.tokens[number], single)) if number in facts.tokens and number not in facts.added else 0.0
        for number in range(vocab_size)
    ]
