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
from aprnb.formats.contents import HEAD_NAME, TensorEntry
from aprnb.formats.fields import SPLIT_HALVES, TYPED
from aprnb.formats.huggingface.tokenizer_json import special_ids, tokenizer_metadata
from aprnb.formats.json_files import MAX_TOKENIZER_VALUES, read_object, read_text
from aprnb.formats.json_memory import MAX_VALUES
from aprnb.formats.sidecar_files import find_sidecar
from aprnb.printable import visible

MAX_TEMPLATE_BYTES = 4 << 20


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
    found |= _identity(config) | _dimensions(config)
    if config:
        found |= {"tied_embeddings": HEAD_NAME not in tensors, "hf_config": config}
    if texts:
        found["source_metadata"] = dict(texts)
    try:
        found |= _tokenizer(folder, config, warnings)
    except CheckpointError as error:
        warnings.append(f"the tokenizer of the folder is not read: {error.found}")
    return found, warnings


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
    if "num_kv_heads" not in found and "num_heads" in found:
        found["num_kv_heads"] = found["num_heads"]
    rope = config.get("rope_parameters")
    theta = config.get("rope_theta") or (rope.get("rope_theta") if isinstance(rope, Mapping) else None)
    if isinstance(theta, int | float) and not isinstance(theta, bool):
        found |= {"rope_theta": float(theta) if abs(theta) < 1 << 63 else theta, "rope_type": SPLIT_HALVES}
    return found


def _tokenizer(folder: Path, config: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    settings = _optional(folder, "tokenizer_config.json")
    parsed = _optional(folder, "tokenizer.json", MAX_TOKENIZER_VALUES)
    found: dict[str, Any] = {}
    if parsed:
        where = str(folder / "tokenizer.json")
        found |= tokenizer_metadata(parsed, config, where) | special_ids(parsed, config, settings)
    template = _template(folder, settings, warnings)
    if template is not None:
        found["chat_template"] = template
    return found


def _optional(folder: Path, name: str, most: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object in a file of the folder; empty where the file is missing."""
    path = find_sidecar(folder, name)
    return {} if path is None else read_object(path, most=most)


def _template(folder: Path, settings: Mapping[str, Any], warnings: list[str]) -> str | None:
    """The text of chat_template.jinja, which `transformers` prefers too, else that of tokenizer_config.json."""
    inside = _default_template(settings.get("chat_template"))
    path = find_sidecar(folder, "chat_template.jinja")
    if path is None:
        return inside
    text = read_text(path, MAX_TEMPLATE_BYTES)
    if inside is not None and inside != text:
        warnings.append("two different chat templates: chat_template.jinja is used, tokenizer_config.json's is not")
    return text


def _default_template(found: Any) -> str | None:
    """The text; of several named ones, the one called default."""
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, Mapping) and each.get("name") == "default"]
        found = named[-1].get("template") if named else None
    return found if isinstance(found, str) else None
