"""Reads a SentencePiece model (`tokenizer.model`): the few fields of its protobuf message that a BPE tokenizer needs.

Layout (sentencepiece_model.proto): ModelProto holds pieces (field 1), trainer_spec (2) and normalizer_spec (3). A field
is its number and wire type as a varint, then its value: a varint (0), 8 bytes (1), a length and bytes (2), 4 bytes (5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aprnb.errors import CheckpointError
from aprnb.formats.source import read_bytes

MAX_MODEL_BYTES = 32 << 20
"""The largest published one (gemma 3) has 5 MB."""
MAX_PIECES, MAX_PIECE_BYTES, MAX_MERGES = 1 << 19, 1024, 3 << 18
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_BPE = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; the higher its score, the earlier it is merged."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A BPE model. `add_space`: a space is added before text; `byte_fallback`: unknown text becomes bytes."""

    pieces: tuple[Piece, ...]
    byte_fallback: bool
    add_space: bool
    unknown: str | None

    def merges(self) -> list[tuple[str, str]]:
        """Every split of a piece into two, highest score first, then by id, of one piece the longer left half first.

        Raises CheckpointError for pieces that split in more ways than any trained model's.
        """
        merged = {piece.text: piece.score for piece in self.pieces if piece.kind in (NORMAL, USER_DEFINED)}
        found: list[tuple[float, int, int, str, str]] = []
        for number, (text, score) in enumerate(merged.items()):
            for at in range(1, len(text)):
                left, right = text[:at], text[at:]
                if left in merged and right in merged:
                    found.append((-score, number, -at, left, right))
            if len(found) > MAX_MERGES:
                raise CheckpointError(f"the pieces have over {MAX_MERGES:,} merges")
        found.sort(key=lambda merge: merge[:3])
        return [(left, right) for *_, left, right in found]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The BPE model in the file.

    Raises CheckpointError, which names the file, for other kinds of models and for normalisation that is not supported.
    """
    data = read_bytes(path, MAX_MODEL_BYTES)
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    try:
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
                if len(pieces) > MAX_PIECES:
                    raise ValueError(f"more than {MAX_PIECES:,} pieces")
            elif number in (2, 3) and isinstance(value, bytes):
                (trainer if number == 2 else normalizer).update(_fields(value))
    except ValueError as error:
        raise CheckpointError(f"{path} is not a SentencePiece model ({error}): the tokenizer is lost") from None
    if not pieces or trainer.get(3, 1) != _BPE:
        kinds = {1: "a Unigram", 3: "a word", 4: "a character"}
        kind = kinds.get(int(trainer.get(3, 1)), "no BPE") if pieces else "an empty"
        raise CheckpointError(f"{path} is {kind} model, which is not supported: the tokenizer is lost")
    if normalizer.get(2) or normalizer.get(4, 1) or not normalizer.get(5, 1):
        raise CheckpointError(f"{path} normalises text in a way that is not supported: the tokenizer is lost")
    unknown = next((piece.text for piece in pieces if piece.kind == UNKNOWN), None)
    return SentencePieceModel(tuple(pieces), bool(trainer.get(35, 0)), bool(normalizer.get(3, 1)), unknown)


def _piece(data: bytes) -> Piece:
    """Text (1), score (2) and type (3) of a piece."""
    fields = dict(_fields(data))
    text, score, kind = fields.get(1, b""), fields.get(2, bytes(4)), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4 or not isinstance(kind, int):
        raise ValueError("a piece with fields of other types")
    if len(text) > MAX_PIECE_BYTES:
        raise ValueError(f"a piece of {len(text):,} bytes")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], kind)


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message; raises ValueError where it ends inside of one."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size, at = _varint(data, at) if kind == _BYTES else ({_FIXED64: 8, _FIXED32: 4}.get(kind, -1), at)
        if size < 0 or at + size > len(data):
            raise ValueError(f"byte {at:,}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, and where it ends."""
    value = 0
    for number, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * number
        if byte < 128:
            return value, at + number + 1
    raise ValueError(f"byte {at:,}")
