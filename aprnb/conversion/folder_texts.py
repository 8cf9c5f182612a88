"""The text files of a written folder besides config.json: those that the source's metadata keep, or imply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aprnb.conversion.generation_settings import sampling_settings
from aprnb.formats.atomic import write_json
from aprnb.formats.huggingface.folder_files import (
    ADDED_TOKENS,
    GENERATION,
    KEPT_FILES,
    SPECIAL_TOKENS,
    TEMPLATE,
    TOKENIZER_CONFIG,
    named_templates,
)
from aprnb.formats.huggingface.model_card import FILE, card_text

_CODE = "auto_map"
"""The key that names code to run."""


def write_folder_texts(
    folder: Path, metadata: Mapping[str, Any], special: Mapping[str, Any], ends: Iterable[int]
) -> tuple[str, ...]:
    """Writes generation_config.json, README.md and the tokenizer's settings; returns what they do not keep.

    `special` are the ids of the special tokens, and `ends` those that end an answer, for a source without a
    generation_config.json. The folder holds a tokenizer's files already, if the source has one.
    """
    stated = metadata.get(GENERATION)
    generation = dict(stated) if isinstance(stated, Mapping) else _generation(metadata, special, list(ends))
    write_json(folder / KEPT_FILES[GENERATION], generation)
    card, unwritten = card_text(metadata)
    if card is not None:
        (folder / FILE).write_text(card, encoding="utf-8", newline="")
    notes = [f"{FILE} has no field for {', '.join(unwritten)}"] if unwritten else []
    return (*notes, *_write_settings(folder, metadata))


def _generation(metadata: Mapping[str, Any], special: Mapping[str, Any], ends: list[int]) -> dict[str, Any]:
    """The special tokens, every token that ends an answer, and the sampling settings of a GGUF file."""
    found = {**special, **({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})}
    return found | sampling_settings(metadata)


def _write_settings(folder: Path, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    for key in (SPECIAL_TOKENS, ADDED_TOKENS):
        if isinstance(metadata.get(key), Mapping):
            write_json(folder / KEPT_FILES[key], dict(metadata[key]))
    path = folder / KEPT_FILES[TOKENIZER_CONFIG]
    written = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    stated = metadata.get(TOKENIZER_CONFIG)
    kept = dict(stated) if isinstance(stated, Mapping) else {}
    if _CODE in kept:
        kept = {key: value for key, value in kept.items() if key not in (_CODE, "tokenizer_class")}
        notes.append(f"{_CODE} and tokenizer_class of {path.name} name code to run: they are not kept")
    settings = written | kept
    named = named_templates(metadata)
    default = folder / "chat_template.jinja"
    if named:
        # in one list: next to a file with the default template, `transformers` ignores the others
        every = ({"default": default.read_text("utf-8")} if default.is_file() else {}) | named
        settings[TEMPLATE] = [{"name": name, "template": text} for name, text in every.items()]
        default.unlink(missing_ok=True)
    if settings:
        write_json(path, settings, force=True)
    return tuple(notes)
