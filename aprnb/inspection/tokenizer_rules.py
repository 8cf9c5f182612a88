"""Rules that complete a tokenizer's metadata: byte symbols, pre-tokenizers, merges out of scores (plain data)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from aprnb.architecture.families import family_named
from aprnb.errors import TokenizerError

SIBLING = "put the model's tokenizer.json beside the checkpoint"
MAX_PIECE_CHARACTERS, MAX_SPLITS_PER_PIECE = 256, 8
"""Published vocabularies have at most 48 characters and 2 splits a piece (llama, gemma)."""
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")

PRE_TOKENIZERS: Mapping[str, str] = {
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "tekken": "tekken",
    "gpt-2": "gpt-2",
    "smollm": "smollm",
}
"""Values of `tokenizer.pre_type` that are known, and the splitting that each of them means."""


def choose_pre_tokenizer(metadata: Mapping[str, Any], architecture: str) -> tuple[str, str, bool]:
    """Name of the byte-level pre-tokenizer, what it follows from, and whether that is an assumption."""
    named = metadata.get("tokenizer.pre_type")
    if named:
        if not isinstance(named, str) or named not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            raise TokenizerError(
                f"pre-tokenizer {str(named)[:60]!r} is not known here", expected=f"one of {known}",
                where="metadata tokenizer.pre_type", action=SIBLING,
            )  # fmt: skip
        return PRE_TOKENIZERS[named], "metadata tokenizer.pre_type", False
    family = family_named(architecture)
    if family is None or family.pre_tokenizer is None:
        raise TokenizerError(f"no rule says how {architecture} splits text for its byte-level BPE", action=SIBLING)
    name, assumed = family.pre_tokenizer
    return name, f"rule of the {architecture} family" + (" (assumed)" if assumed else ""), assumed


def merges_from_scores(
    tokens: Mapping[int, str], scores: list[float], controls: set[str]
) -> tuple[tuple[str, str], ...]:
    """Merges in the order of the pieces' scores (highest first), every split of a piece into two pieces.

    Of one piece's splits, longer left halves come first, as in the conversion that published llama tokenizers went
    through. Raises TokenizerError for pieces that nobody learned, whose splits would fill the memory.
    """
    pieces = {text for text in tokens.values() if text not in controls and not BYTE_PIECE.fullmatch(text)}
    longest = max(map(len, pieces), default=0)
    if longest > MAX_PIECE_CHARACTERS:
        raise TokenizerError(f"a piece has {longest:,} characters", expected=f"at most {MAX_PIECE_CHARACTERS}")
    splits = (
        (-scores[number], -at, -(len(text) - at), text[:at], text[at:])
        for number, text in tokens.items()
        if text in pieces
        for at in range(1, len(text))
        if text[:at] in pieces and text[at:] in pieces
    )
    most = MAX_SPLITS_PER_PIECE * len(pieces)
    found = list(islice(splits, most + 1))
    if len(found) > most:
        raise TokenizerError(f"{len(pieces):,} pieces split into two others in more than {most:,} ways", action=SIBLING)
    return tuple((left, right) for *_, left, right in sorted(found, key=lambda merge: merge[:3]))


def byte_symbols() -> frozenset[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary (GPT-2's mapping)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return frozenset(map(chr, [*printable, *range(256, 512 - len(printable))]))
