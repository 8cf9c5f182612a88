"""`tokenizers.Tokenizer` objects from a checkpoint's vocabulary and merges, or from a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from aprnb.errors import MissingExtra, TokenizerError
from aprnb.tokenizer.facts import TokenizerFacts
from aprnb.tokenizer.sandbox.tokenizer_process import interruptible, library_errors, load_seconds, try_out
from aprnb.tokenizer.sandbox.tokenizer_program import MAX_ADDED_TEXT, bounded_program

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE
except ImportError:
    raise MissingExtra("train", "tokenizers") from None

_WORDS_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_WORDS_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "qwen2": _WORDS_QWEN2, "llama-bpe": _WORDS_LLAMA3, "dbrx": _WORDS_LLAMA3, "tekken": _WORDS_TEKKEN,
    "gpt-4o": _WORDS_GPT4O,
}  # fmt: skip
WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")
"""Vocabularies made from tiktoken ranks: a word that is a token stays whole, whatever its merges would give."""


def byte_level_tokenizer(facts: TokenizerFacts, pre_tokenizer: str, compose: bool) -> Tokenizer:
    """Byte-level BPE; `compose` normalises text to NFC first."""
    tokenizer = _bpe(facts, ignore_merges=pre_tokenizer in WHOLE_WORDS_FIRST)
    tokenizer.normalizer = normalizers.NFC() if compose else None
    tokenizer.pre_tokenizer = splitter(pre_tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer, facts)


def sentencepiece_tokenizer(facts: TokenizerFacts) -> Tokenizer:
    """SentencePiece BPE like llama's: a space before text unless the file says no, spaces as ▁, other text as bytes."""
    unknown = "<unk>" if "<unk>" in facts.tokens.values() else None
    unknown = unknown if facts.unk_id is None else facts.tokens[facts.unk_id]
    tokenizer = _bpe(facts, byte_fallback=True, fuse_unk=True, unk_token=unknown)
    front = facts.add_space is not False
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁")] * front + [normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + [decoders.Strip(" ", 1, 0)] * front
    )
    return _finished(tokenizer, facts)


def parsed_tokenizer(document: Mapping[str, Any], where: object) -> Tokenizer:
    """The tokenizer that this tokenizer.json describes, after a first use in a child process.

    Raises TokenizerError where it cannot encode, exceeds its bounds, or gives an added token another id than the
    library does.
    """
    text = json.dumps(bounded_program(document, where), ensure_ascii=False)
    try_out(text, where, [token["content"] for token in document.get("added_tokens") or ()])
    load = partial(Tokenizer.from_str, text)
    tokenizer = interruptible(load, f"{where} cannot be loaded", load_seconds(text))
    for token in document.get("added_tokens") or ():
        content, stated, given = token["content"], token.get("id"), tokenizer.token_to_id(token["content"])
        if given != stated:
            raise TokenizerError(
                f"{where} gives {content[:60]!r} the id {str(stated)[:20]}; the tokenizers library gives it {given}",
                expected="added tokens in the order of their ids, each id after those of the vocabulary",
            )
    return tokenizer


def _bpe(facts: TokenizerFacts, **options: object) -> Tokenizer:
    ids = {text: number for number, text in facts.tokens.items()}
    with library_errors("the file's vocabulary is not usable"):
        return Tokenizer(BPE(vocab=ids, merges=list(facts.merges), **options))


def splitter(name: str) -> pre_tokenizers.PreTokenizer:
    """The byte-level pre-tokenizer of this name in `PRE_TOKENIZERS`."""
    if name in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated", invert=False)
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    return words


def _finished(tokenizer: Tokenizer, facts: TokenizerFacts) -> Tokenizer:
    def tokens(special: bool) -> list[AddedToken]:
        return [
            AddedToken(facts.tokens[number], special=special, normalized=False)
            for number, is_special in facts.added.items()
            if is_special == special
        ]

    characters = sum(len(facts.tokens[number]) for number in facts.added)
    if characters > MAX_ADDED_TEXT:
        raise TokenizerError(
            f"the file's added tokens have {characters:,} characters together", expected=f"at most {MAX_ADDED_TEXT:,}"
        )
    tokenizer.add_special_tokens(tokens(special=True))
    tokenizer.add_tokens(tokens(special=False))
    before, after = _added_around(facts)
    if before or after:
        ids = {facts.tokens[number]: number for number in (facts.bos_id, facts.eos_id) if number is not None}
        first, second = [*before, "$A", *after], [f"{part}:1" for part in (*before, "$B", *after)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=first, pair=[*first, *second], special_tokens=list(ids.items())
        )
    return tokenizer


def _added_around(facts: TokenizerFacts) -> tuple[list[str], list[str]]:
    """The tokens before and after each text."""
    before = [facts.tokens[facts.bos_id]] if facts.add_bos and facts.bos_id is not None else []
    after = [facts.tokens[facts.eos_id]] if facts.add_eos and facts.eos_id is not None else []
    return before, after
