"""Slow tokenizer files: vocab.json with merges.txt, and SentencePiece models, written byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def field(number: int, value: int | bytes | float) -> bytes:
    """One field of a protobuf message: a varint, bytes, or a float32."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def sentencepiece_model(
    pieces: Sequence[tuple[str, float, int]], *, kind: int = BPE, add_space: bool = True, trim: bool = False
) -> bytes:
    """A ModelProto with these (text, score, type), as `spm_train --byte_fallback --normalization_rule_name=identity`
    writes it."""
    found = b""
    for text, score, of in pieces:
        found += field(1, field(1, text.encode()) + field(2, score) + (field(3, of) if of != NORMAL else b""))
    ids = [next((n for n, (_, _, of) in enumerate(pieces) if of == UNKNOWN), 0)]
    trainer = field(3, kind) + field(4, len(pieces)) + field(35, 1) + field(40, ids[0])
    normalizer = field(1, b"identity") + field(3, int(add_space)) + field(4, int(trim)) + field(5, 1)
    return found + field(2, trainer) + field(3, normalizer)


def pieces_of(parsed: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """The pieces of a published SentencePiece tokenizer, from its tokenizer.json: a piece's score is minus the rank of
    the first merge that makes it."""
    model, added = parsed["model"], {token["content"]: token for token in parsed["added_tokens"]}
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    ranks: dict[str, int] = {}
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    found = []
    for text in sorted(model["vocab"], key=model["vocab"].__getitem__):
        kind = NORMAL
        if text == "<unk>":
            kind = UNKNOWN
        elif text in added:
            kind = CONTROL if added[text]["special"] else USER_DEFINED
        elif len(text) == 6 and text.startswith("<0x"):
            kind = BYTE
        score = -float(ranks.get(text, len(ranks))) if kind == NORMAL else 0.0
        found.append((text, score, kind))
    return found


def write_vocabulary(folder: Path, parsed: Mapping[str, Any]) -> None:
    """vocab.json and merges.txt with the vocabulary and merges of a tokenizer.json."""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in parsed["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(parsed["model"]["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
