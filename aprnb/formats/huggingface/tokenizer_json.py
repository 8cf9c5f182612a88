"""A `tokenizer.json` as `.apr` metadata: lists of tokens and merges as `apr import` writes them, and `hf_tokenizer`.

`hf_tokenizer` keeps everything but vocabulary and merges (normaliser, splitting, added tokens, post-processing), and
which ids belong to the model's vocabulary, which a list of texts does not say. From all of these the tokenizer.json can
be reassembled; without `hf_tokenizer` readers use rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import CheckpointError

MAX_TOKENS = 1 << 20
HOLE = "<unk>"
"""What importers write for an id that no token has."""
REST = "hf_tokenizer"
_OWN = "ids_in_vocabulary"
"""In `hf_tokenizer`: ids of added tokens that the model's vocabulary holds too, and of its own `<unk>`."""


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
    added = _added(parsed)
    ids = {**model["vocab"], **added}
    for text, number in ids.items():
        if not isinstance(text, str) or type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise CheckpointError(f"{where} gives token {str(text)[:60]!r} the id {str(number)[:40]}")
    stated = config.get("vocab_size")
    rows = stated if type(stated) is int and 0 < stated <= MAX_TOKENS else 0
    vocabulary = [HOLE] * max(rows, max(ids.values(), default=-1) + 1)
    for text, number in ids.items():
        vocabulary[number] = text
    merges = model.get("merges") or []
    if not isinstance(merges, list) or not all(isinstance(merge, str | list) for merge in merges):
        raise CheckpointError(f"the merges of {where} are not a list of merges", expected='"a b" or ["a", "b"] each')
    rest = {key: value for key, value in parsed.items() if key != "model"}
    rest["model"] = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    rest[_OWN] = sorted(ids[text] for text in model["vocab"] if text == HOLE or text in added)
    if any(" " in part for merge in merges if isinstance(merge, list) for part in map(str, merge)):
        rest["model"]["merges"] = merges  # "a b" would not say which space is the one between
    return {
        "tokenizer.vocabulary": vocabulary,
        "tokenizer.vocab_size": len(vocabulary),
        "tokenizer.merges": [merge if isinstance(merge, str) else " ".join(map(str, merge)) for merge in merges],
        "tokenizer.model_type": "BPE",
        REST: rest,
    }


def _added(parsed: Mapping[str, Any]) -> dict[str, Any]:
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
    ids |= _added(parsed)
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
    if "vocab" in rest["model"]:
        return dict(rest)
    vocabulary, merges = metadata.get("tokenizer.vocabulary"), metadata.get("tokenizer.merges")
    if not isinstance(vocabulary, list) or not isinstance(merges, list):
        return None
    outside, own = {HOLE, *_added(rest)}, rest.get(_OWN)
    ids: dict[str, int] = {}
    for number, text in enumerate(vocabulary):
        if text not in outside:
            ids.setdefault(text, number)
    for number in own if isinstance(own, list) else ():
        if type(number) is not int or not 0 <= number < len(vocabulary):
            return None
        ids[vocabulary[number]] = number
    model = {"merges": merges, **rest["model"], "vocab": ids}
    return {**{key: value for key, value in rest.items() if key != _OWN}, "model": model}
