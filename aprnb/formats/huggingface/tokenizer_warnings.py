"""Warnings about the files beside a tokenizer.json: what they say and it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.formats.huggingface.tokenizer_json import added_ids
from aprnb.printable import first_names, shown_name


def other_flags(parsed: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """A warning for each flag of tokenizer_config.json that contradicts what tokenizer.json adds around a text."""
    before, after = _added_around(parsed.get("post_processor"))
    warnings = []
    for flag, name, around in (("add_bos_token", "bos_token", before), ("add_eos_token", "eos_token", after)):
        stated, token = settings.get(flag), settings.get(name)
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(stated, bool) and isinstance(text, str) and stated != (text in around):
            adds = f"adds no {shown_name(text)}" if stated else f"adds {shown_name(text)}"
            warnings.append(
                f"tokenizer_config.json says {flag} {str(stated).lower()}, and tokenizer.json {adds}: "
                "the latter counts, as in transformers 5"
            )
    return warnings


def double_ids(parsed: Mapping[str, Any]) -> list[str]:
    """A warning for each of the first added tokens that has the id of another token."""
    model, added = parsed.get("model"), added_ids(parsed)
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    numbers = {number for number in added.values() if type(number) is int}
    owners: dict[int, str] = {}
    found = []
    own = ((text, number) for text, number in vocabulary.items() if type(number) is int and number in numbers) if (
        isinstance(vocabulary, Mapping)) else ()  # fmt: skip
    for text, number in (*own, *added.items()):
        if type(number) is not int or added.get(text, number) != number:
            continue  # an added token that is in the vocabulary too has the id that added_tokens gives
        first = owners.setdefault(number, text)
        if first != text:
            found.append(f"{number:,} to {shown_name(first)!r} and {shown_name(text)!r}")
    if not found:
        return []
    return [f"tokenizer.json gives the id {first_names(found, 5)}: only the last of each is kept in lists of tokens"]


def missing_tokens(parsed: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """A warning for tokens that tokenizer_config.json or special_tokens_map.json names and tokenizer.json lacks."""
    model, decoder = parsed.get("model"), settings.get("added_tokens_decoder")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    known = {*(vocabulary if isinstance(vocabulary, Mapping) else ()), *added_ids(parsed)}
    stated = [*decoder.values()] if isinstance(decoder, Mapping) else []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key)
        stated += more if isinstance(more, list) else [*more.values()] if isinstance(more, Mapping) else []
    texts = (token.get("content") if isinstance(token, Mapping) else token for token in stated)
    missing = list(dict.fromkeys(text for text in texts if isinstance(text, str) and text not in known))
    if not missing or not isinstance(vocabulary, Mapping):
        return []
    named = first_names([shown_name(text) for text in missing], 5)
    return [
        f"tokenizer.json lacks {named}, which transformers adds from the other files: they are not kept; "
        "save the folder's tokenizer again with save_pretrained"
    ]


def _added_around(step: Any) -> tuple[list[Any], list[Any]]:
    """The tokens that a post-processor adds before and after a text."""
    if not isinstance(step, Mapping):
        return [], []
    steps = step.get("processors")
    if isinstance(steps, list):
        both = [_added_around(each) for each in steps if isinstance(each, Mapping) and "processors" not in each]
        return [token for before, _ in both for token in before], [token for _, after in both for token in after]
    if isinstance(step.get("cls"), list) and isinstance(step.get("sep"), list):  # BERT's and RoBERTa's
        return step["cls"][:1], step["sep"][:1]
    single = step.get("single")
    pieces = [each for each in single if isinstance(each, Mapping)] if isinstance(single, list) else []
    at = next((number for number, piece in enumerate(pieces) if "Sequence" in piece), len(pieces))
    names = [piece["SpecialToken"].get("id") if isinstance(piece.get("SpecialToken"), Mapping) else None
             for piece in pieces]  # fmt: skip
    return names[:at], names[at:]
