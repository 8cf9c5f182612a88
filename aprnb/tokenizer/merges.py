"""The merges of a BPE vocabulary: as written, or from the scores of its pieces."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from aprnb.errors import TokenizerError
from aprnb.tokenizer.rules import ADD_TOKENIZER
from aprnb.tokenizer.vocabulary import UsedTokens

MAX_MERGES = 3 << 18
"""786,432; the largest published tokenizer has some 580,000."""
_TOGETHER = 1 << 14
_NO_MARKS = bytes(set(range(256)) - set(b" \n"))
"""The bytes that do not part merges, or the two halves of one."""
MAX_PIECE_CHARACTERS, MAX_SPLITS_PER_PIECE = 256, 4
"""Published vocabularies have at most 48 characters and 2 splits a piece (llama, gemma)."""
MAX_PIECES_CHARACTERS = 1 << 21
"""2,097,152 in all pieces together; gemma's 256,000 have some 1.5 million."""


NOT_MERGED = -float(1 << 24)
"""The score of a piece that no merge makes; ranks of merges are above it and exact in float32."""


class Merges(Collection[tuple[str, str]]):
    """Pairs by rank, each made on access: all of them at once would take 200 bytes each.

    `count` may be a function, where the number itself takes long to find: `counted` says whether it is known.
    """

    def __init__(self, count: int | Callable[[], int], pairs: Callable[[], Iterator[tuple[str, str]]]) -> None:
        self._count, self._pairs = count, pairs

    @property
    def counted(self) -> bool:
        return isinstance(self._count, int)

    def __len__(self) -> int:
        if not isinstance(self._count, int):
            self._count = self._count()
        return self._count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._pairs()

    def __contains__(self, pair: object) -> bool:
        return any(each == pair for each in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Merges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # Python's way to say unhashable


def read_merges(texts: list[str], tokens: UsedTokens, strings: set[str]) -> Merges:
    """Merges written as two parts with one space between, checked against the `strings` of `tokens`.

    A space inside a part is allowed where the vocabulary leaves one way to read the merge. Raises TokenizerError for a
    merge that does not give a token.
    """
    start = _first_result(texts, tokens)
    spaced = False
    for first in range(0, len(texts), _TOGETHER):
        some = texts[first : first + _TOGETHER]
        spaced |= _check_merges(some, first, strings, _run(tokens, start + first, len(some)))
    if not spaced:
        return Merges(len(texts), lambda: ((left, right) for left, _, right in (text.partition(" ") for text in texts)))
    return Merges(len(texts), lambda: (_parted(at, text, strings) for at, text in enumerate(texts)))


def read_pairs(pairs: list[Any], strings: Container[str]) -> Merges:
    """Merges written as pairs, which may contain spaces; checked like `read_merges`."""
    if len(pairs) > MAX_MERGES:
        raise TokenizerError(f"{len(pairs):,} merges", expected=f"at most {MAX_MERGES:,}", action=ADD_TOKENIZER)
    for first in range(0, len(pairs), _TOGETHER):
        some = pairs[first : first + _TOGETHER]
        if not _are_sound(some, strings):
            _require_sound(some, first, strings)
    return Merges(len(pairs), lambda: ((left, right) for left, right in pairs))


def _are_sound(pairs: list[Any], strings: Container[str]) -> bool:
    """Whether each of these is two texts whose parts and result are `strings`; all at once."""
    if set(map(type, pairs)) != {list} or set(map(len, pairs)) != {2}:
        return False
    parts = list(chain.from_iterable(pairs))
    return set(map(type, parts)) == {str} and all(map(strings.__contains__, chain(parts, map("".join, pairs))))


def _require_sound(pairs: list[Any], first: int, strings: Container[str]) -> None:
    """Raises TokenizerError for the first of these that is no merge."""
    for at, pair in enumerate(pairs, first):
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(part) is str for part in pair)):
            raise TokenizerError(f"merge {at:,} is {str(pair)[:60]}", expected="two texts", action=ADD_TOKENIZER)
        _require_parts(at, pair[0], pair[1], strings)


def _first_result(texts: list[str], tokens: UsedTokens) -> int:
    """The id of what the first merge makes; 0 where there is none."""
    whole = texts[0].replace(" ", "")
    return tokens.vocabulary.index(whole) if whole in tokens.vocabulary else 0


def _run(tokens: UsedTokens, start: int, count: int) -> list[str]:
    """The strings of `count` ids in a row; empty where one of them is a hole."""
    run = tokens.vocabulary[start : start + count]
    return run if all(tokens.used[start : start + count]) else []


def _check_merges(texts: list[str], first: int, strings: set[str], run: list[str]) -> bool:
    """Checks some merges, the common form all at once; returns whether parts contain spaces.

    Most vocabularies list what merges make in the merges' order: then `run` has these strings, none of which needs to
    be looked for.
    """
    joined = "\n".join(texts)
    marks = joined.encode("utf-8", "surrogatepass").translate(None, _NO_MARKS)
    common = marks == (b" \n" * len(texts))[:-1]
    if common and strings.issuperset(joined.replace("\n", " ").split(" ")):
        made = joined.replace(" ", "")
        if made == "\n".join(run) or strings.issuperset(made.split("\n")):
            return False
    for at, text in enumerate(texts, first):
        _parted(at, text, strings)
    return not common


def _parted(at: int, text: str, made: Container[str]) -> tuple[str, str]:
    """The parts of a merge; raises TokenizerError unless there is exactly one way to read it."""
    places = [place for place, sign in enumerate(text[: 2 * MAX_PIECE_CHARACTERS]) if sign == " "]
    ways = [(text[:place], text[place + 1 :]) for place in places]
    found = [way for way in ways if way[0] in made and way[1] in made and "".join(way) in made]
    if len(found) == 1:
        return found[0]
    if found or len(places) != 1 or not all(ways[0]):
        expected = "two parts with one space between" + (", which can be read in one way" if found else "")
        raise TokenizerError(f"merge {at:,} is {text[:60]!r}", expected=expected, action=ADD_TOKENIZER)
    _require_parts(at, *ways[0], made)
    return ways[0]


def _require_parts(at: int, left: str, right: str, made: Container[str]) -> None:
    missing = next((each for each in (left, right, left + right) if each not in made), None)
    if missing is not None:
        raise TokenizerError(
            f"merge {at:,} ({left[:60]!r} with {right[:60]!r}) needs {missing[:60]!r}, which the vocabulary lacks",
            action=ADD_TOKENIZER,
        )


def merges_from_scores(tokens: Mapping[int, str], scores: Sequence[float], controls: Collection[int]) -> Merges:
    """Merges in the order of the pieces' scores (highest first), every split of a piece into two pieces.

    `controls` are ids of tokens that are no pieces. The pieces are split on first use, which raises the errors of
    `split_pieces`; implausible pieces raise TokenizerError at once.
    """
    _require_plausible(tokens.values())

    @cache
    def splits() -> tuple[np.ndarray, np.ndarray]:
        return split_pieces(tokens, scores, controls)

    def pairs() -> Iterator[tuple[str, str]]:
        numbers, places = splits()
        for number, at in zip(memoryview(numbers), memoryview(places), strict=True):
            text = tokens[number]
            yield text[:at], text[at:]

    return Merges(lambda: len(splits()[0]), pairs)


def split_pieces(
    tokens: Mapping[int, str], scores: Sequence[float], controls: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The id of each merged piece and the length of its left half, in the order of the merges' ranks.

    Of one piece's splits, longer left halves come first, as in the conversion that published llama tokenizers went
    through. Raises TokenizerError for pieces that no training gives, whose splits would fill the memory.
    """
    pieces = dict.fromkeys(tokens.values())
    for text in (*(tokens[number] for number in controls), *(f"<0x{byte:02X}>" for byte in range(256))):
        pieces.pop(text, None)
    _require_plausible(pieces)
    most = min(MAX_SPLITS_PER_PIECE * len(pieces), MAX_MERGES)
    numbers, lefts, rights = array("I"), array("B"), array("B")
    for number, text in tokens.items():
        if text not in pieces or scores[number] <= NOT_MERGED:
            continue
        for at in range(1, len(text)):
            if text[at:] in pieces and text[:at] in pieces:
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
    lengths = list(map(len, pieces))
    longest, letters = max(lengths, default=0), sum(lengths)
    if longest > MAX_PIECE_CHARACTERS:
        raise TokenizerError(f"a piece has {longest:,} characters", expected=f"at most {MAX_PIECE_CHARACTERS}")
    if letters > MAX_PIECES_CHARACTERS:
        raise TokenizerError(f"the pieces have {letters:,} characters", expected=f"at most {MAX_PIECES_CHARACTERS:,}")
