"""A `tokenizer.json` as `.apr` metadata: lists of tokens and merges as `apr import` writes them, and `hf_tokenizer`.

`hf_tokenizer` keeps everything but vocabulary and merges (normaliser, splitting, added tokens, post-processing), and
what the lists of texts do not say: which ids belong to the model's vocabulary, and how merges are written. From all of
these the tokenizer.json can be reassembled; without `hf_tokenizer` readers use rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.printable import shown_name

MAX_TOKENS = 1 << 20
HOLE = "<unk>"
"""What other importers write for an id that no token has; it is also a token of many vocabularies."""
REST = "hf_tokenizer"
_OWN = "ids_in_vocabulary"
"""In `hf_tokenizer`: ids of the model's own tokens that are added tokens too, or that look like fillers."""
_PAIRS = "merges_are_pairs"
"""In `hf_tokenizer`: whether the tokenizer.json has merges as `["a", "b"]`, not as `"a b"`."""
_SPACED = "spaced_merges"
"""In `hf_tokenizer`: `[index, "a", "b"]` of the merges with a space in a part, which `"a b"` does not tell."""


def filler(number: int) -> str:
    """What is written for an id that no token has, as llama.cpp's converter does."""
    return f"[PAD{number}]"


def is_filler(text: Any, number: int) -> bool:
    """Whether this text at this id may stand for no token."""
    return text == HOLE or (isinstance(text, str) and text.startswith("[PAD") and text == filler(number))


def tokenizer_metadata(parsed: Mapping[str, Any], config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`tokenizer.*` keys and `hf_tokenizer` of a parsed tokenizer.json; empty for models other than BPE and Unigram.

    Raises CheckpointError where ids are not whole numbers, or beyond every published vocabulary.
    """
    model = parsed.get("model")
    if (
        not isinstance(model, Mapping)
        or model.get("type") not in ("BPE", None)
        or not isinstance(model.get("vocab"), Mapping)
    ):
        return {REST: dict(parsed)}
    added = added_ids(parsed)
    ids = {**model["vocab"], **added}
    for text, number in ids.items():
        if not isinstance(text, str) or type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise CheckpointError(f"{where} gives token {str(text)[:60]!r} the id {str(number)[:40]}")
    stated = config.get("vocab_size")
    rows = stated if type(stated) is int and 0 < stated <= MAX_TOKENS else 0
    vocabulary = list(map(filler, range(max(rows, max(ids.values(), default=-1) + 1))))
    _require_own_ids(model["vocab"], where)
    for text, number in ids.items():
        vocabulary[number] = text
    merges = model.get("merges") or []
    if not isinstance(merges, list) or not all(isinstance(merge, str | list) for merge in merges):
        raise CheckpointError(f"the merges of {where} are not a list of merges", expected='"a b" or ["a", "b"] each')
    rest = {key: value for key, value in parsed.items() if key != "model"}
    rest["model"] = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    rest[_OWN] = sorted(ids[text] for text in model["vocab"] if text in added or is_filler(text, ids[text]))
    _keep_pairs(rest, merges)
    return {
        "tokenizer.vocabulary": vocabulary,
        "tokenizer.vocab_size": len(vocabulary),
        "tokenizer.merges": [merge if isinstance(merge, str) else " ".join(map(str, merge)) for merge in merges],
        "tokenizer.model_type": "BPE",
        REST: rest,
    }


def _require_own_ids(vocabulary: Mapping[str, int], where: str) -> None:
    """Raises CheckpointError where two of the model's tokens have one id."""
    if len(set(vocabulary.values())) == len(vocabulary):
        return
    taken: dict[int, str] = {}
    for text, number in vocabulary.items():
        if taken.setdefault(number, text) != text:
            both = f"{shown_name(taken[number])!r} and {shown_name(text)!r}"
            found = f"{where} gives the id {number:,} to {both}"
            raise CheckpointError(found, expected="one token for each id", action="give one of them another id")


def _keep_pairs(rest: dict[str, Any], merges: list[Any]) -> None:
    """Adds to `rest` what `"a b"` does not tell of merges that are pairs."""
    spaced = [
        [at, *merge] for at, merge in enumerate(merges)
        if isinstance(merge, list) and any(" " in part for part in map(str, merge))
    ]  # fmt: skip
    if merges and all(isinstance(merge, list) for merge in merges):
        rest |= {_PAIRS: True, **({_SPACED: spaced} if spaced else {})}
    elif spaced:
        rest["model"]["merges"] = merges


def added_ids(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Text → id of the added tokens; entries of another form are left out."""
    listed = parsed.get("added_tokens")
    tokens = [token for token in listed if isinstance(token, Mapping)] if isinstance(listed, list) else []
    return {token["content"]: token.get("id") for token in tokens if isinstance(token.get("content"), str)}


def special_ids(parsed: Mapping[str, Any], config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of bos, eos and padding, from tokenizer_config.json's tokens, else from the config's whole numbers; and the
    typed `special_tokens` of their texts."""
    model = parsed.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    ids = dict(vocabulary) if isinstance(vocabulary, Mapping) else {}
    ids |= added_ids(parsed)
    found: dict[str, Any] = {}
    named: dict[str, str | None] = {}
    for short, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        text = settings.get(f"{short}_token")
        text = text.get("content") if isinstance(text, Mapping) else text
        named[f"{short}_token"] = text if isinstance(text, str) and text in ids else None
        number = ids.get(text) if isinstance(text, str) else None
        stated = config.get(f"{short}_token_id")
        if number is None and type(stated) is int:
            number = stated
        if number is not None:
            found[f"tokenizer.{key}_token_id"] = number
    if any(named.values()):
        found["special_tokens"] = named
    return found


def reassembled(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The whole tokenizer.json again, from `hf_tokenizer`, vocabulary and merges; None where the metadata has none."""
    rest = metadata.get(REST)
    if not isinstance(rest, Mapping) or not isinstance(rest.get("model"), Mapping):
        return None
    whole = {key: value for key, value in rest.items() if key not in (_OWN, _PAIRS, _SPACED)}
    if "vocab" in rest["model"]:
        return whole
    vocabulary, merges = metadata.get("tokenizer.vocabulary"), metadata.get("tokenizer.merges")
    if not isinstance(vocabulary, list) or not isinstance(merges, list):
        return None
    outside, own = added_ids(rest), rest.get(_OWN)
    ids: dict[str, int] = {}
    for number, text in enumerate(vocabulary):
        if text not in outside and not is_filler(text, number):
            ids.setdefault(text, number)
    for number in own if isinstance(own, list) else ():
        if type(number) is not int or not 0 <= number < len(vocabulary):
            return None
        ids[vocabulary[number]] = number
    if rest.get(_PAIRS) is True:
        merges = _as_pairs(rest, merges)
        if merges is None:
            return None
    model = {"merges": merges, **rest["model"], "vocab": ids}
    return {**whole, "model": model}


def _as_pairs(rest: Mapping[str, Any], merges: list[Any]) -> list[Any] | None:
    """The listed merges as lists of parts; None where `spaced_merges` contradicts them."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    spaced = rest.get(_SPACED)
    for entry in spaced if isinstance(spaced, list) else ():
        at, *parts = entry if isinstance(entry, list) and entry else (None,)
        if type(at) is not int or not 0 <= at < len(merges) or " ".join(map(str, parts)) != merges[at]:
            return None
        pairs[at] = parts
    return pairs


def stated_tokens(metadata: Mapping[str, Any]) -> tuple[dict[int, bool] | None, frozenset[int]]:
    """Of `hf_tokenizer`: id → whether it is special, of the added tokens; and every id that it says has a token.

    None in place of the added tokens where there is no `hf_tokenizer`, or it does not fit the list of tokens.
    """
    rest, vocabulary = metadata.get(REST), metadata.get("tokenizer.vocabulary")
    listed = rest.get("added_tokens") if isinstance(rest, Mapping) else None
    if not isinstance(rest, Mapping) or not isinstance(listed, list) or not isinstance(vocabulary, list):
        return None, frozenset()
    added: dict[int, bool] = {}
    for token in listed:
        number = token.get("id") if isinstance(token, Mapping) else None
        if type(number) is not int or not 0 <= number < len(vocabulary) or vocabulary[number] != token.get("content"):
            return None, frozenset()
        added[number] = token.get("special") is True
    own = rest.get(_OWN)
    return added, frozenset(added) | {each for each in (own if isinstance(own, list) else ()) if type(each) is int}


def stated_pairs(metadata: Mapping[str, Any]) -> list[Any] | None:
    """The merges that `hf_tokenizer` keeps as pairs because of their spaces, where they are those of the list."""
    rest, listed = metadata.get(REST), metadata.get("tokenizer.merges")
    if isinstance(rest, Mapping) and rest.get(_SPACED) and isinstance(listed, list):
        return _as_pairs(rest, listed)
    pairs = (
        rest["model"].get("merges") if isinstance(rest, Mapping) and isinstance(rest.get("model"), Mapping) else None
    )
    if not isinstance(pairs, list) or not isinstance(listed, list) or len(pairs) != len(listed):
        return None
    joined = (" ".join(map(str, pair)) if isinstance(pair, list) else None for pair in pairs)
    return pairs if all(text == other for text, other in zip(joined, listed, strict=True)) else None
