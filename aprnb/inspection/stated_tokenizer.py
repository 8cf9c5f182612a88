"""Where metadata state the tokenizer twice: `hf_tokenizer` beside the lists. What is shown must be what is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aprnb.errors import TokenizerError
from aprnb.formats.tokenizer_json import HOLE, REST

_NAMED = (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown"))


def require_one_tokenizer(metadata: Mapping[str, Any]) -> None:
    """Raises TokenizerError where `hf_tokenizer`, the lists of `tokenizer.*` and `special_tokens` disagree."""
    rest, listed = metadata.get(REST), metadata.get("tokenizer.vocabulary")
    if not isinstance(rest, Mapping) or not isinstance(rest.get("model"), Mapping) or not isinstance(listed, list):
        return
    _require_tokens(rest, listed)
    merges, other = metadata.get("tokenizer.merges"), rest["model"].get("merges")
    if isinstance(merges, list) and isinstance(other, list) and [*map(_joined, other)] != [*map(_joined, merges)]:
        raise _two(f"{REST} and tokenizer.merges have different merges")
    _require_special(metadata, listed)


def _require_tokens(rest: Mapping[str, Any], listed: list[Any]) -> None:
    stated = dict(_stated_ids(rest))
    for text, number in stated.items():
        if type(number) is not int or not 0 <= number < len(listed) or listed[number] != text:
            there = listed[number] if type(number) is int and 0 <= number < len(listed) else "nothing"
            here = f"{REST} gives {str(text)[:60]!r} the id {str(number)[:20]}"
            raise _two(f"{here}; tokenizer.vocabulary has {str(there)[:60]!r}")
    if rest["model"].get("vocab") is None:
        return
    for number, text in enumerate(listed):
        if isinstance(text, str) and text not in stated and text not in (HOLE, f"[PAD{number}]"):
            raise _two(f"tokenizer.vocabulary has {text[:60]!r} at {number}, {REST} does not")


def _stated_ids(rest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Text and id of each token that `hf_tokenizer` itself holds: all of them, or the added ones alone."""
    vocabulary = rest["model"].get("vocab")
    if isinstance(vocabulary, Mapping):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list):
        yield from ((pair[0], at) for at, pair in enumerate(vocabulary) if isinstance(pair, list) and pair)
    added = rest.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, Mapping) and isinstance(token.get("content"), str):
            yield token["content"], token.get("id")


def _require_special(metadata: Mapping[str, Any], listed: list[Any]) -> None:
    named = metadata.get("special_tokens")
    if not isinstance(named, Mapping):
        return
    for name, key in _NAMED:
        text, number = named.get(name), metadata.get(f"tokenizer.{key}_token_id")
        if isinstance(text, str) and type(number) is int and 0 <= number < len(listed) and listed[number] != text:
            there = f"tokenizer.{key}_token_id is {number}, {str(listed[number])[:60]!r}"
            raise _two(f"special_tokens says {name} {text[:60]!r}; {there}")


def _joined(merge: Any) -> str:
    return " ".join(map(str, merge)) if isinstance(merge, list) else str(merge)


def _two(found: str) -> TokenizerError:
    return TokenizerError(
        f"two tokenizers that differ: {found}", expected="one",
        action="which one is meant cannot be told: convert the file again from its source",
    )  # fmt: skip
