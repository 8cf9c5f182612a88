"""Bounds on what a tokenizer.json can make the tokenizers library do; checked before the library reads it.

A tokenizer.json is a program: steps that replace, repeat and split text. Published ones are small; a malicious one of
two kilobytes multiplies its input by millions. What the counts and lengths here cannot bound (regular expressions, the
library's own defects) is tried in a child process first, see `tokenizer_process`.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aprnb.errors import TokenizerError

MAX_STEPS, MAX_DEPTH = 64, 8
"""Steps of normalizer, pre-tokenizer, post-processor and decoder together; published ones have at most some 20."""
MAX_TEXT, MAX_PATTERN = 256, 4_096
"""Characters of a text that a step inserts or looks for, and of a regular expression."""
MAX_GROWTH = 4_096
"""How many times longer the steps together may make a text; ALBERT's make at most 2,592 characters of one."""
_GROWTH = {
    "NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 2, "BertNormalizer": 24, "ByteLevel": 5, "Metaspace": 2,
}  # fmt: skip
"""The most characters that a step makes of one: U+FDFA decomposes into 18, an emoji has 4 bytes and a space in front.

One of these is harmless. Repeated, with replacements in between that compose the character again, they multiply a text.
"""
MAX_PIECES = 64
"""Pieces of a post-processor's template, and tokens of each special piece."""
MAX_STRIPPED, MAX_WORD = 64, 1_000
MAX_TOKENS, MAX_ADDED, MAX_TOKEN = 1 << 20, 1 << 15, 4_096
MAX_ADDED_TEXT = 1 << 19
"""Characters of the added tokens together, which become an automaton; gemma 3 has 75,802 in 6,415 tokens."""
MAX_CHARSMAP = 1 << 20
"""Characters of base64; those that SentencePiece ships have some 320,000."""
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")
_DROPPED = {"truncation": None, "padding": None}
"""A text is encoded whole: a limit in the file would cut training rows without a warning."""


def bounded_program(document: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The tokenizer.json without truncation, padding and dropout; raises TokenizerError for what exceeds the bounds."""
    check = _Check(where)
    for part in _PARTS:
        check.component(document.get(part), 0)
    check.growth(document, ("normalizer", "pre_tokenizer"))
    check.growth(document, ("decoder",))
    model = document.get("model")
    check.require(isinstance(model, Mapping), "has no model", "an object")
    assert isinstance(model, Mapping)
    check.model(model)
    check.added(document.get("added_tokens") or [])
    return {**document, **_DROPPED, "model": {**model, "dropout": None} if model.get("dropout") else model}


class _Check:
    """Counts over one document."""

    def __init__(self, where: object) -> None:
        self._where, self._steps = where, 0

    def require(self, holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise TokenizerError(f"{self._where} {found}", expected=expected)

    def component(self, step: Any, depth: int) -> None:
        """A normalizer, pre-tokenizer, post-processor or decoder, with those inside it."""
        if step is None:
            return
        self._steps += 1
        typed = isinstance(step, Mapping) and isinstance(step.get("type"), str)  # the library infers a missing type
        self.require(typed, "has a step without a type", "an object with a type")
        self.require(self._steps <= MAX_STEPS and depth <= MAX_DEPTH, "has too many steps", f"at most {MAX_STEPS}")
        for key, value in step.items():
            if key in _LISTS:
                self.require(isinstance(value, list), f"has {key} that are not a list", "a list of steps")
                for inner in value:
                    self.component(inner, depth + 1)
            elif key == "precompiled_charsmap":
                self._charsmap(value)
            else:
                self._texts(key, value)
        self._numbers(step)

    def growth(self, document: Mapping[str, Any], parts: tuple[str, ...]) -> None:
        """How many times longer the steps of these parts, one after the other, make a text at most."""
        factor = math.prod(_factor(step) for part in parts for step in _steps(document.get(part)))
        self.require(
            factor <= MAX_GROWTH, f"makes text more than {MAX_GROWTH:,} times longer", "steps that add less text"
        )

    def model(self, model: Mapping[str, Any]) -> None:
        vocabulary = model.get("vocab")
        count = len(vocabulary) if isinstance(vocabulary, Mapping | list) else 0
        self.require(count <= MAX_TOKENS, f"has {count:,} tokens", f"at most {MAX_TOKENS:,}")
        longest = max(map(len, _token_texts(vocabulary)), default=0)
        self.require(longest <= MAX_TOKEN, f"has a token of {longest:,} characters", f"at most {MAX_TOKEN:,}")
        word = model.get("max_input_chars_per_word", 0)
        self.require(
            type(word) is int and word <= MAX_WORD, f"takes words of {str(word)[:40]}", f"at most {MAX_WORD:,}"
        )
        for key, value in model.items():
            if key not in ("vocab", "merges"):
                self._texts(key, value)

    def added(self, tokens: Any) -> None:
        self.require(
            isinstance(tokens, list) and len(tokens) <= MAX_ADDED, "adds too many tokens", f"at most {MAX_ADDED:,}"
        )
        total = 0
        for token in tokens:
            text = token.get("content") if isinstance(token, Mapping) else None
            sound = isinstance(text, str) and 0 < len(text) <= MAX_TOKEN
            self.require(sound, "adds a token without text, or with too much", f"1 to {MAX_TOKEN:,} characters")
            total += len(text or "")
        self.require(
            total <= MAX_ADDED_TEXT, f"adds tokens of {total:,} characters together", f"at most {MAX_ADDED_TEXT:,}"
        )

    def _texts(self, key: str, value: Any) -> None:
        """The length of every text below `value`, and the number of pieces of every list and object."""
        most = MAX_PATTERN if key == "pattern" else MAX_TEXT
        for inner in _below(value):
            size, limit = (len(inner), most) if isinstance(inner, str) else (_pieces(inner), MAX_PIECES)
            self.require(size <= limit, f"has a {key[:40]} of {size:,} characters or pieces", f"at most {limit:,}")

    def _numbers(self, step: Mapping[str, Any]) -> None:
        for key in ("start", "stop", "length"):
            value = step.get(key, 0)
            self.require(
                type(value) is int and 0 <= value <= MAX_STRIPPED,
                f"has {key} {str(value)[:40]}",
                f"0 to {MAX_STRIPPED}",
            )

    def _charsmap(self, value: Any) -> None:
        sound = isinstance(value, str) and len(value) <= MAX_CHARSMAP and _charsmap_texts(value) is not None
        expected = f"base64 of at most {MAX_CHARSMAP:,} characters"
        self.require(sound, "has an invalid precompiled_charsmap", expected)


def _steps(step: Any) -> Iterator[Mapping[str, Any]]:
    """A checked step and those inside it."""
    if step is not None:
        yield step
        for key in _LISTS:
            for inner in step.get(key) or ():
                yield from _steps(inner)


def _factor(step: Mapping[str, Any]) -> float:
    """How many times longer this step alone makes a text at most."""
    content, pattern = step.get("content"), step.get("pattern")
    if step["type"] == "Replace" and isinstance(content, str) and isinstance(pattern, Mapping):
        literal = pattern.get("String")
        if not isinstance(literal, str) or not literal:  # a regular expression may match between any two characters
            return 1 + len(content)
        return max(1.0, len(content) / len(literal))
    if step["type"] == "Prepend":
        return 1 + len(str(step.get("prepend")))
    if step["type"] == "Precompiled":
        texts = _charsmap_texts(step.get("precompiled_charsmap")) or b""
        return max((len(text.decode("utf-8", "replace")) for text in re.findall(rb"[^\0]+", texts)), default=1)
    return _GROWTH.get(step["type"], 1)


def _charsmap_texts(value: Any) -> bytes | None:
    """The texts that a SentencePiece normalizer writes, each with a NUL after it; None for what is not base64.

    The bytes are the size of a trie (4, little-endian), the trie, and these texts.
    """
    try:
        raw = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        return None
    return raw[4 + int.from_bytes(raw[:4], "little") :]


def _token_texts(vocabulary: Any) -> Iterator[str]:
    """The texts of a BPE or WordPiece vocabulary (an object), or of a Unigram's list of pairs."""
    if isinstance(vocabulary, Mapping):
        yield from vocabulary
    for pair in vocabulary if isinstance(vocabulary, list) else ():
        if isinstance(pair, list) and pair and isinstance(pair[0], str):
            yield pair[0]


def _pieces(value: Any) -> int:
    return len(value) if isinstance(value, Mapping | list) else 0


def _below(value: Any) -> Iterator[Any]:
    """`value` and everything inside it, keys included; without recursion, since it may be nested deeply."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        yield inner
        if isinstance(inner, Mapping):
            waiting += [*inner, *inner.values()]
        elif isinstance(inner, list):
            waiting += inner
