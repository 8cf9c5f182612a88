"""A vocabulary in metadata: its strings and numbers, checked, and the ids that are in use."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from itertools import compress, count, repeat
from operator import not_
from typing import Any

from aprnb.errors import TokenizerError
from aprnb.formats.gguf.metadata import key_name
from aprnb.printable import and_more
from aprnb.tokenizer.rules import ADD_TOKENIZER

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of `tokenizer.token_type`, which are GGUF's."""
MAX_VOCABULARY = 5 << 16
"""327,680; the largest published vocabulary of a language model has 262,208 (gemma 3)."""
MAX_TOKEN_CHARACTERS = 4_096
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


def byte_symbols() -> frozenset[str]:
    """The 256 characters that represent bytes in a byte-level vocabulary (GPT-2's mapping)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return frozenset(map(chr, [*printable, *range(256, 512 - len(printable))]))


class UsedTokens(Mapping[int, str]):
    """Id → string of a vocabulary without its holes; shares the strings and makes no table of them."""

    def __init__(self, vocabulary: list[str], used: bytearray) -> None:
        self.vocabulary, self.used, self._count = vocabulary, used, used.count(1)

    def __getitem__(self, number: int) -> str:
        if 0 <= number < len(self.used) and self.used[number]:
            return self.vocabulary[number]
        raise KeyError(number)

    def __iter__(self) -> Iterator[int]:
        return compress(range(len(self.used)), self.used)

    def __len__(self) -> int:
        return self._count

    def values(self) -> ValuesView[str]:
        return _Strings(self)

    def items(self) -> ItemsView[int, str]:
        return _Items(self)


class _Strings(ValuesView[str]):
    _mapping: UsedTokens

    def __iter__(self) -> Iterator[str]:
        return compress(self._mapping.vocabulary, self._mapping.used)


class _Items(ItemsView[int, str]):
    _mapping: UsedTokens

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return zip(self._mapping, self._mapping.values(), strict=True)


def checked_strings(metadata: Mapping[str, Any], key: str, most: int) -> list[str]:
    """The list under `key`; raises TokenizerError unless it has at most `most` strings of bounded length."""
    values, name = metadata.get(key), key_name(metadata, key)
    if not isinstance(values, list):
        raise TokenizerError(f"{name} is {type(values).__name__}", expected="a list of strings", action=ADD_TOKENIZER)
    if len(values) > most:
        raise TokenizerError(f"{name} has {len(values):,} entries", expected=f"at most {most:,}")
    if set(map(type, values)) <= {str} and max(map(len, values), default=0) <= MAX_TOKEN_CHARACTERS:
        return values
    for at, value in enumerate(values):
        if not isinstance(value, str) or len(value) > MAX_TOKEN_CHARACTERS:
            found = f"{len(value):,} characters" if isinstance(value, str) else type(value).__name__
            raise TokenizerError(
                f"{name} holds {found} at {at:,}",
                expected=f"a string of at most {MAX_TOKEN_CHARACTERS:,} characters", action=ADD_TOKENIZER,
            )  # fmt: skip
    return values


def checked_numbers(metadata: Mapping[str, Any], key: str, count: int) -> list[Any]:
    """The list under `key`, empty where it is absent; raises TokenizerError unless it has `count` numbers."""
    values, name = metadata.get(key), key_name(metadata, key)
    if not values:
        return []
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values):,} values" if isinstance(values, list) else type(values).__name__
        raise TokenizerError(f"{name} holds {found}", expected=f"one number per token ({count:,})")
    if not set(map(type, values)) <= {int, float, bool}:
        raise TokenizerError(f"{name} holds values that are not numbers")
    return values


def used_tokens(
    vocabulary: list[str], types: list[Any], merges: Any = None, stated: frozenset[int] = frozenset()
) -> tuple[UsedTokens, set[str], list[str]]:
    """Id → string without the holes, these strings, and warnings about repeated ones.

    `merges` are those of the metadata, unchecked; `stated` are ids that are no holes, whatever their strings are.
    """
    alphabet_at = next((at for at, text in enumerate(vocabulary) if len(text) == 1), len(vocabulary))
    padded = vocabulary.count("<unk>") > 1
    merged_at = vocabulary.index("<unk>") if padded and _merge_unknown(merges) else -1
    used = bytearray(b"\1") * len(vocabulary)
    if types:
        used = bytearray(of_types(types, UNUSED).translate(b"\1\0" + bytes(254)))
    # importers fill holes with <unk> (one string at many ids) or [PAD<id>]; a real <unk> precedes the alphabet, or the
    # fillers where merges make it, as in Qwen's vocabularies
    for at in compress(count(), map("<unk>".__eq__, vocabulary)) if padded else ():
        if at > alphabet_at and at != merged_at and at not in stated:
            used[at] = False
    pads = "\n[PAD" in "\n".join(vocabulary)  # a fifth of the time of asking each string
    for at in compress(count(), map(str.startswith, vocabulary, repeat("[PAD"))) if pads else ():
        if at not in stated and vocabulary[at] == f"[PAD{at}]":
            used[at] = False
    for at in compress(count(), map(not_, vocabulary)) if "" in vocabulary else ():
        used[at] = False
    strings = set(compress(vocabulary, used))
    warnings = [] if len(strings) == used.count(1) else [_leave_out_repeats(vocabulary, used)]
    return UsedTokens(vocabulary, used), strings, warnings


def of_types(types: list[Any], *kinds: int) -> bytes:
    """1 for each token of one of these types, else 0."""
    try:
        return bytes(types).translate(bytes(kind in kinds for kind in range(256)))
    except (TypeError, ValueError):  # not all are whole numbers below 256
        return bytes(map(frozenset(kinds).__contains__, types))


def _merge_unknown(merges: Any) -> bool:
    """Whether one of these merges makes `<unk>`."""
    return isinstance(merges, list) and any(pair in merges for pair in ("<unk >", "< unk>", "<un k>", "<u nk>"))


def _leave_out_repeats(vocabulary: list[str], used: bytearray) -> str:
    """Keep only the first of equal strings in `used`; returns the warning that names them."""
    repeats, shown, met = 0, [], set[str]()
    for at in compress(range(len(vocabulary)), bytes(used)):
        text = vocabulary[at]
        if text in met:
            used[at], repeats = False, repeats + 1
            if repeats <= 3:
                first = next(before for before in compress(range(at), used) if vocabulary[before] == text)
                shown.append(f"{text[:60]!r} at {first} and {at}")
        met.add(text)
    named = " ".join(filter(None, (", ".join(shown), and_more(repeats - 3))))
    return f"the vocabulary repeats {named}; the first one is used"
