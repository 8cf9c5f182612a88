"""A checkpoint's tokenizer in the keys of GGUF, so that llama.cpp produces the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import TokenizerError
from aprnb.formats.gguf.values import GgufValue
from aprnb.tokenizer.facts import TokenizerFacts, has_tokenizer, read_facts
from aprnb.tokenizer.gguf_splitting import settle_splitting
from aprnb.tokenizer.merges import merges_from_scores
from aprnb.tokenizer.vocabulary import BYTE, BYTE_PIECE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED


def tokenizer_values(metadata: Mapping[str, Any], model_type: str, vocab_size: int) -> dict[str, GgufValue]:
    """The keys of the tokenizer in `.apr` metadata, filled up to `vocab_size` tokens; empty where there is none.

    Raises TokenizerError for a tokenizer that the metadata do not determine, or with more tokens than rows.
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
    splitting = settle_splitting(metadata, facts, model_type)
    if splitting.pre is not None:
        found["model"] = GgufValue("string", "gpt2")
        found["pre"] = GgufValue("string", splitting.pre)
        found["merges"] = GgufValue("array[string]", [f"{left} {right}" for left, right in facts.merges])
    else:
        found["model"] = GgufValue("string", "llama")
        found["scores"] = GgufValue("array[float32]", _scores(facts, metadata, vocab_size))
        found["add_space_prefix"] = GgufValue("bool", splitting.add_space)
    ids = {"bos_token_id": facts.bos_id, "eos_token_id": facts.eos_id, "padding_token_id": facts.pad_id}
    found |= {name: GgufValue("uint32", number) for name, number in ids.items() if number is not None}
    found["add_bos_token"] = GgufValue("bool", splitting.add_bos)
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()} | values


def _token_type(facts: TokenizerFacts, number: int) -> int:
    text = facts.tokens.get(number)
    if text is None:
        return UNUSED
    if facts.kind == "SentencePiece BPE" and text == "<unk>":
        return UNKNOWN
    if number in facts.added:
        return CONTROL if facts.added[number] else USER_DEFINED
    return BYTE if facts.kind == "SentencePiece BPE" and BYTE_PIECE.fullmatch(text) else NORMAL


def _scores(facts: TokenizerFacts, metadata: Mapping[str, Any], vocab_size: int) -> list[float]:
    """The stored scores, or the ranks of the merges that make each piece: the inverse of `merges_from_scores`.

    Raises TokenizerError for merges that no scores give.
    """
    stored = metadata.get("tokenizer.scores")
    if isinstance(stored, list):
        return ([float(score) for score in stored] + [0.0] * vocab_size)[:vocab_size]
    ranks: dict[str, int] = {}
    for left, right in facts.merges:
        ranks.setdefault(left + right, len(ranks))
    scores = [0.0] * vocab_size
    for number, text in facts.tokens.items():
        if number not in facts.added:
            scores[number] = -float(ranks.get(text, len(ranks)))
    if set(merges_from_scores(facts.tokens, scores, {facts.tokens[number] for number in facts.added})) != set(
        facts.merges
    ):
        raise TokenizerError(
            "this tokenizer's merges are not those of a SentencePiece model, which GGUF keeps as scores",
            action="convert to .apr or a folder, which keep the whole tokenizer",
        )
    return scores
