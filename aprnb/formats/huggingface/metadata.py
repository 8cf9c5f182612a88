"""The metadata of a Hugging Face folder, under the keys of `.apr` metadata.

The keys are those that `apr import` writes for the same folder, without its known mistakes: the tied flag is true, the
`rope_type` is that of split halves, chat template and special tokens are kept, and so is the whole config
(`hf_config`). What the config does not state is left out, not filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.contents import TensorEntry
from aprnb.formats.fields import SPLIT_HALVES, TYPED
from aprnb.formats.gguf.provenance import as_metadata
from aprnb.formats.huggingface.folder_files import (
    SPECIAL_TOKENS,
    TEMPLATE,
    TOKENIZER_CONFIG,
    read_kept_files,
    read_settings,
    read_templates,
)
from aprnb.formats.huggingface.model_card import CARD, read_card
from aprnb.formats.huggingface.slow_tokenizer import read_slow_tokenizer
from aprnb.formats.huggingface.tokenizer_json import special_ids, tokenizer_metadata
from aprnb.formats.huggingface.tokenizer_warnings import double_ids, missing_tokens, other_flags
from aprnb.formats.json_files import MAX_TOKENIZER_VALUES, read_object
from aprnb.formats.json_memory import MAX_VALUES
from aprnb.formats.sidecar_files import find_sidecar
from aprnb.printable import visible


def folder_metadata(
    folder: Path, tensors: Mapping[str, TensorEntry], texts: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """The metadata, and a warning for everything unexpected in the folder."""
    config = _optional(folder, "config.json")
    warnings = [] if config else [f"no config.json in {folder}: the model type is unknown"]
    found: dict[str, Any] = {
        "model_type": "Auto",
        "name": visible(folder.name),
        "license": None,
        "data_source": None,
        "data_license": None,
    }
    found |= {"total_size": 0, "param_count": sum(entry.elements for entry in tensors.values())}
    stated, card = read_card(folder, config, warnings)
    found |= as_metadata(stated) | _identity(config) | _dimensions(config)
    if card is not None:
        found[CARD] = card
    if config:
        found["hf_config"] = config
    if texts:
        found["source_metadata"] = dict(texts)
    return found | read_kept_texts(folder, config, warnings), warnings


def read_kept_texts(folder: Path, config: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """What the folder's files besides config.json say of tokenizer, templates and generation.

    A file that cannot be read is a warning.
    """
    found = read_kept_files(folder, warnings)
    try:
        found |= _tokenizer(folder, config, found, warnings)
    except CheckpointError as error:
        warnings.append(f"the tokenizer of the folder is not read: {error.found}")
    return found


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    kinds = config.get("architectures")
    first = kinds[0] if isinstance(kinds, list) and kinds and isinstance(kinds[0], str) else None
    name = config.get("model_type")
    named = {"architecture": name, "hf_architecture": first, "hf_model_type": name}
    return {key: value for key, value in named.items() if isinstance(value, str)}


def _dimensions(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, row in TYPED.items():
        value = next((config[name] for name in row.config or (row.name,) if config.get(name) is not None), None)
        # rope_theta is set below: newer configs state it in an object
        if row.name != "rope_theta" and isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = value
    rope = config.get("rope_parameters")
    theta = config.get("rope_theta") or (rope.get("rope_theta") if isinstance(rope, Mapping) else None)
    if isinstance(theta, int | float) and not isinstance(theta, bool):
        found |= {"rope_theta": float(theta) if abs(theta) < 1 << 63 else theta, "rope_type": SPLIT_HALVES}
    return found


def _tokenizer(folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    settings = read_settings(folder)
    found = read_templates(folder, settings, warnings)
    settings.pop(TEMPLATE, None)
    found |= {TOKENIZER_CONFIG: settings} if settings else {}
    path = find_sidecar(folder, "tokenizer.json")
    named = named_tokens(settings, kept.get(SPECIAL_TOKENS, {}))
    try:
        if path is None:
            parsed = read_slow_tokenizer(folder, config, {**kept, TOKENIZER_CONFIG: named})
        else:
            parsed = read_object(path, most=MAX_TOKENIZER_VALUES)
            warnings += other_flags(parsed, named) + missing_tokens(parsed, named) + double_ids(parsed)
        if parsed:
            found |= tokenizer_metadata(parsed, config, str(path or folder)) | special_ids(parsed, config, named)
    except CheckpointError as error:
        warnings.append(f"the tokenizer of the folder is not read: {error.found}")
    return found


def named_tokens(settings: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with the tokens of special_tokens_map.json, which older folders have besides it."""
    return {**settings, **special} if "added_tokens_decoder" not in settings else {**special, **settings}


def _optional(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder; empty where the file is missing."""
    path = find_sidecar(folder, name)
    return {} if path is None else read_object(path, most=MAX_VALUES)
