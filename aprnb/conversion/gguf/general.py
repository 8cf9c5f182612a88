"""GGUF's keys for identity, generation and chat templates, and the names of what a folder says and GGUF cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from aprnb.conversion.generation_settings import SAMPLING, further_ends, gguf_sampling
from aprnb.formats.gguf.provenance import PREFIX, general, gguf_value
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.huggingface.folder_files import (
    GENERATION,
    KEPT_FILES,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    named_templates,
)
from aprnb.formats.huggingface.front_matter import read_front_matter
from aprnb.formats.huggingface.model_card import CARD, FILE, general_of_card
from aprnb.printable import first_names, short

Values = dict[str, GgufValue]

_NEEDED_BY_PHI3 = ("</s>", "<unk>", "<s>", "<|endoftext|>")
"""llama.cpp looks these tokens up in a model whose name contains "phi3" or "phi-3", and fails where one is missing."""
_OF_GENERATION = {*SAMPLING, "do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
_OF_TOKENIZER = {
    "added_tokens_decoder", "add_bos_token", "add_eos_token", "additional_special_tokens", "bos_token", "chat_template",
    "eos_token", "extra_special_tokens", "pad_token", "unk_token",
}  # fmt: skip
"""Settings that the vocabulary, its token types, and keys for tokens and templates express."""
_DEFAULTS: Mapping[str, Any] = {"output_attentions": False, "output_hidden_states": False, "use_cache": True}
"""Settings that `save_pretrained` writes into every generation config; with these values they say nothing."""
_ABOUT_THE_WRITER = ("_from_model_config", "_commit_hash", "name_or_path", "backend", "is_local", "local_files_only")


def identity_values(metadata: Mapping[str, Any], name: str) -> tuple[Values, tuple[str, ...]]:
    """`general.*`: what the source states, and its name or else `name`; and warnings."""
    stated = general(metadata)
    given = metadata.get("name")
    stated.setdefault("name", given if isinstance(given, str) and given else name)
    shown, notes = _openable(stated["name"], metadata)
    ordered = {"type": "model", **stated, "name": shown}
    return {f"{PREFIX}{key}": gguf_value(key, value) for key, value in ordered.items()}, notes


def _openable(name: str, metadata: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The name, spelt so that llama.cpp opens the file."""
    vocabulary = metadata.get("tokenizer.vocabulary")
    tokens = vocabulary if isinstance(vocabulary, list) else []
    lowered = name.lower()
    if not any(part in lowered for part in ("phi3", "phi-3")) or all(token in tokens for token in _NEEDED_BY_PHI3):
        return name, ()
    shown = re.sub("(?i)(phi)-?(?=3)", r"\1 ", name)
    note = f"general.name is {shown!r}: llama.cpp does not open a file called {name!r} with this vocabulary"
    return shown, (note,)


def generation_values(
    metadata: Mapping[str, Any], values: Mapping[str, GgufValue], ends: Iterable[int]
) -> tuple[Values, tuple[str, ...]]:
    """Further end tokens, sampling and named templates; `values` are the tokenizer's, `ends` the ids that end answers.

    Warnings name what is lost.
    """
    found, notes = _ends(metadata, values, list(ends))
    stated = metadata.get(GENERATION)
    generation = stated if isinstance(stated, Mapping) else {}
    others, unlike = _other_ids(generation, values)
    sampling = gguf_sampling(generation)
    found, notes = (
        found | others,
        [*notes, *unlike, *_not_written(generation, sampling), *_no_tokens(generation, values)],
    )
    found |= {f"{PREFIX}{key}": gguf_value(key, value) for key, value in sampling.items()}
    lost = {
        GENERATION: [key for key, value in generation.items() if not _is_expressed(key, value)],
        TOKENIZER_CONFIG: _others(metadata, TOKENIZER_CONFIG, _OF_TOKENIZER),
        SPECIAL_TOKENS: _others(metadata, SPECIAL_TOKENS, _OF_TOKENIZER),
    }
    templates, renamed = _templates(metadata)
    for key, names in lost.items():
        named = [name for name in names if name not in _ABOUT_THE_WRITER]
        notes += [f"GGUF has no key for {', '.join(named)} of {KEPT_FILES[key]}"] if named else []
    return found | templates, (*notes, *renamed, *_lost_of_card(metadata))


def _is_expressed(key: str, value: Any) -> bool:
    return key in _OF_GENERATION or (key in _DEFAULTS and value is _DEFAULTS[key])


def _not_written(generation: Mapping[str, Any], sampling: Mapping[str, Any]) -> list[str]:
    """Why settings that GGUF has keys for are not written."""
    file = KEPT_FILES[GENERATION]
    # null is a setting that is not set
    left = {
        key: generation[key]
        for key, name in SAMPLING.items()
        if generation.get(key) is not None and name not in sampling
    }
    if left and generation.get("do_sample") is not True:
        return [f"{', '.join(left)} of {file} not written: without do_sample true it has no effect"]
    return [
        f"{key} of {file} is {short(value)}, not a number from 0 on; it is not written" for key, value in left.items()
    ]


def _no_tokens(generation: Mapping[str, Any], values: Mapping[str, GgufValue]) -> list[str]:
    """A warning for end tokens of the generation config that are not ids of the vocabulary."""
    tokens, stated = values.get("tokenizer.ggml.tokens"), generation.get("eos_token_id")
    if tokens is None or stated is None:
        return []
    each = stated if isinstance(stated, list) else [stated]
    bad = [short(number) for number in each if type(number) is not int or not 0 <= number < len(tokens.value)]
    return (
        [f"eos_token_id of {KEPT_FILES[GENERATION]} names {first_names(bad, 5)}: no token has this id"] if bad else []
    )


def _others(metadata: Mapping[str, Any], key: str, expressed: set[str]) -> list[str]:
    stated = metadata.get(key)
    found = stated.items() if isinstance(stated, Mapping) else ()
    return [name for name, value in found if name not in expressed and value is not None]


def _ends(metadata: Mapping[str, Any], values: Mapping[str, GgufValue], every: list[int]) -> tuple[Values, list[str]]:
    tokens = values.get("tokenizer.ggml.tokens")
    if tokens is None:
        return {}, []
    eos = values.get("tokenizer.ggml.eos_token_id")
    others = [metadata.get(f"tokenizer.{name}_token_id") for name in ("eot", "eom")]
    named = (number for number in every if number < len(tokens.value) and number not in others)
    first = eos.value if eos else next(named, None)
    ids, left = further_ends(metadata, every, first, tokens.value)
    if first is not None:  # which a tokenizer_config.json may leave to the other configs
        ids["tokenizer.ggml.eos_token_id"] = first
    notes = [f"GGUF has no key for further end tokens: {', '.join(map(str, left))}"] if left else []
    return {key: GgufValue("uint32", number) for key, number in ids.items()}, notes


def _other_ids(generation: Mapping[str, Any], values: Mapping[str, GgufValue]) -> tuple[Values, list[str]]:
    """The ids of bos and padding that generation_config.json alone names; one unlike the tokenizer's is a warning."""
    tokens = values.get("tokenizer.ggml.tokens")
    found: Values = {}
    notes = []
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        number, own = generation.get(name), values.get(f"tokenizer.ggml.{key}")
        if tokens is None or type(number) is not int or not 0 <= number < len(tokens.value):
            continue
        if own is None:
            found[f"tokenizer.ggml.{key}"] = GgufValue("uint32", number)
        elif own.value != number:
            notes.append(
                f"GGUF has one key for {key}, the tokenizer's {own.value}: generation_config.json has {number}"
            )
    return found, notes


def _templates(metadata: Mapping[str, Any]) -> tuple[Values, list[str]]:
    """`tokenizer.chat_template.NAME`, with names as the `gguf` package spells them."""
    found: Values = {}
    notes = []
    for name, text in named_templates(metadata).items():
        spelt = "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in name)
        key = f"tokenizer.chat_template.{spelt}"
        if not spelt or key in found:
            notes.append(f"GGUF has no key for the chat template {name[:60]!r}")
            continue
        if spelt != name:
            notes.append(f"the chat template {name[:60]!r} is called {spelt!r} in GGUF")
        found[key] = GgufValue("string", text)
    if found:
        names = [key.rpartition(".")[2] for key in found]
        found["tokenizer.chat_templates"] = GgufValue("array[string]", names)
    return found, notes


def _lost_of_card(metadata: Mapping[str, Any]) -> list[str]:
    text = metadata.get(CARD)
    if not isinstance(text, str):
        return []
    card = read_front_matter(text)
    lost = [key for key in card if not general_of_card({key: card[key]})]
    rest = ["the text"] if text.partition("---")[2].partition("---")[2].strip() or not card else []
    return [f"GGUF has no key for {', '.join(rest + lost)} of {FILE}"] if rest or lost else []
