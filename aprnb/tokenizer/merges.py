"""The merges of a BPE vocabulary: as written, or from the scores of its pieces."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from aprnb.errors import TokenizerError
from aprnb.tokenizer.rules import ADD_TOKENIZER

MAX_MERGES = 3 << 18
"""786,432; the largest published tokenizer has some 580,000."""
MAX_PIECE_CHARACTERS, MAX_SPLITS_PER_PIECE = 256, 4
"""Published vocabularies have at most 48 characters and 2 splits a piece (llama, gemma)."""
MAX_PIECES_CHARACTERS = 1 << 21
"""2,097,152 in all pieces together; gemma's 256,000 have some 1.5 million."""


class Merges(Collection[tuple[str, str]]):
    """Pairs by rank, each made on access: all of them at once would take 200 bytes each."""

    def __init__(self, count: int, pairs: Callable[[], Iterator[tuple[str, str]]]) -> None:
        self._count, self._pairs = count, pairs

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._pairs()

    def __contains__(self, pair: object) -> bool:
        return any(each == pair for each in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Merges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # Python's way to say unhashable


def written_merges(texts: list[str]) -> Merges:
    """Merges written as two parts with one space between."""
    return Merges(len(texts), lambda: ((left, right) for left, _, right in (text.partition(" ") for text in texts)))


def merges_from_scores(tokens: Mapping[int, str], scores: Sequence[float], controls: set[str]) -> Merges:
    """Merges in the order of the pieces' scores (highest first), every split of a piece into two pieces.

    The errors are those of `split_pieces`.
    """
    return merges_of_splits(tokens, *split_pieces(tokens, scores, controls))


def merges_of_splits(tokens: Mapping[int, str], numbers: np.ndarray, places: np.ndarray) -> Merges:
    """The merges that `split_pieces` found."""

    def pairs() -> Iterator[tuple[str, str]]:
        for number, at in zip(memoryview(numbers), memoryview(places), strict=True):
            yield tokens[number][:at], tokens[number][at:]

    return Merges(len(numbers), pairs)


def split_pieces(
    tokens: Mapping[int, str], scores: Sequence[float], controls: set[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The id of each merged piece and the length of its left half, in the order of the merges' ranks.

    Of one piece's splits, longer left halves come first, as in the conversion that published llama tokenizers went
    through. Raises TokenizerError for pieces that no training gives, whose splits would fill the memory.
    """
    pieces = dict.fromkeys(tokens.values())
    for text in (*controls, *(f"<0x{byte:02X}>" for byte in range(256))):
        pieces.pop(text, None)
    _require_plausible(pieces)
    most = min(MAX_SPLITS_PER_PIECE * len(pieces), MAX_MERGES)
    numbers, lefts, rights = array("I"), array("B"), array("B")
    for number, text in tokens.items():
        for at in range(1, len(text)):
            if text[:at] in pieces and text[at:] in pieces and text in pieces:
                numbers.append(number)
                lefts.append(at)
                rights.append(len(text) - at)
                if len(numbers) > most:
                    found = f"{len(pieces):,} pieces split into two others in more than {most:,} ways"
                    raise TokenizerError(found, action=ADD_TOKENIZER)
    del pieces
    made, places = np.array(numbers, np.uint32), np.array(lefts, np.uint8)
    ranks = np.asarray(scores, np.float64)[made]
    order = np.lexsort((-np.array(rights, np.int16), -places.astype(np.int16), -ranks))
    return made[order], places[order]


def _require_plausible(pieces: Collection[str]) -> None:
    longest, letters = max(map(len, pieces), default=0), sum(map(len, pieces))
    if longest > MAX_PIECE_CHARACTERS:
        raise TokenizerError(f"a piece has {longest:,} characters", expected=f"at most {MAX_PIECE_CHARACTERS}")
    if letters > MAX_PIECES_CHARACTERS:
        raise TokenizerError(f"the pieces have {letters:,} characters", expected=f"at most {MAX_PIECES_CHARACTERS:,}")
