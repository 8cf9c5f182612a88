"""The tokenizer.json embedded in the metadata (`hf_tokenizer`), checked against the lists of tokens and merges.

Every reader of the format shows and uses the lists, so they take precedence over an `hf_tokenizer` that disagrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aprnb.formats.huggingface.tokenizer_json import REST, is_filler, reassembled

_NAMED = (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown"))


def embedded_tokenizer(metadata: Mapping[str, Any]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The tokenizer.json in the metadata, if there is one, and warnings where metadata disagree."""
    special = _special_disagreement(metadata)
    found = _disagreement(metadata)
    if found is not None:
        return None, (f"two different tokenizers, {REST} is not used: {found}", *special)
    return reassembled(metadata), special


def _disagreement(metadata: Mapping[str, Any]) -> str | None:
    rest, listed = metadata.get(REST), metadata.get("tokenizer.vocabulary")
    if not isinstance(rest, Mapping) or not isinstance(rest.get("model"), Mapping) or listed is None:
        return None
    if not isinstance(listed, list):
        return f"tokenizer.vocabulary is {type(listed).__name__}"
    merges, other = metadata.get("tokenizer.merges"), rest["model"].get("merges")
    if merges is not None and other is not None and _joined(other) != _joined(merges):
        return "its merges are not those of tokenizer.merges"
    return _other_tokens(rest, listed)


def _other_tokens(rest: Mapping[str, Any], listed: list[Any]) -> str | None:
    stated = dict(_stated_ids(rest))
    for text, number in stated.items():
        if type(number) is not int or not 0 <= number < len(listed) or listed[number] != text:
            there = listed[number] if type(number) is int and 0 <= number < len(listed) else "nothing"
            here = f"it gives {str(text)[:60]!r} the id {str(number)[:20]}"
            return f"{here}, where tokenizer.vocabulary has {str(there)[:60]!r}"
    if rest["model"].get("vocab") is None:
        return None
    for number, text in enumerate(listed):
        if isinstance(text, str) and text not in stated and not is_filler(text, number):
            return f"it lacks {text[:60]!r}, which tokenizer.vocabulary has at {number}"
    return None


def _stated_ids(rest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Text and id of each token that `hf_tokenizer` itself holds: all of them, or the added ones alone."""
    vocabulary = rest["model"].get("vocab")
    if isinstance(vocabulary, Mapping):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list):
        yield from ((str(pair[0]), at) for at, pair in enumerate(vocabulary) if isinstance(pair, list) and pair)
    added = rest.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, Mapping) and isinstance(token.get("content"), str):
            yield token["content"], token.get("id")


def _special_disagreement(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    named, listed = metadata.get("special_tokens"), metadata.get("tokenizer.vocabulary")
    if not isinstance(named, Mapping) or not isinstance(listed, list):
        return ()
    warnings = []
    for name, key in _NAMED:
        text, number = named.get(name), metadata.get(f"tokenizer.{key}_token_id")
        other = listed[number] if type(number) is int and 0 <= number < len(listed) else None
        if text is not None and text != other:
            used = f", {str(other)[:60]!r}, which is used" if other is not None and isinstance(text, str) else ""
            there = f"tokenizer.{key}_token_id is {str(number)[:40]}{used}"
            warnings.append(f"special_tokens says {name} {str(text)[:60]!r}; {there}")
    return tuple(warnings)


def _joined(merges: Any) -> Any:
    """Merges as texts, whether written "a b" or ["a", "b"]."""
    if not isinstance(merges, list):
        return merges
    return [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]
