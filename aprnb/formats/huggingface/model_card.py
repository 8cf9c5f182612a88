"""Identity and provenance in a Hugging Face folder: README.md's front matter and `_name_or_path` of config.json.

The keys of cards are those that the `gguf` package reads (its `metadata.py`); they map to GGUF's `general.*` keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.gguf.provenance import MAX_ITEMS, General, general
from aprnb.formats.huggingface.front_matter import Card, read_front_matter, write_front_matter
from aprnb.formats.json_files import read_text
from aprnb.formats.sidecar_files import find_sidecar

FILE, CARD = "README.md", "hf_model_card"
"""The file, and the key of `.apr` metadata that keeps its text."""
MAX_CARD_BYTES = 1 << 20
_TEXTS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "description": ("description", "model_description"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename"),
    "size_label": ("size_label", "model_size_label"),
    "quantized_by": ("quantized_by",),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
    "license": ("license",),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
}
"""GGUF's key → keys of a card; the first is written."""
_LISTS = {"tags": ("tags", "pipeline_tag"), "languages": ("language", "languages")}
_MODELS = {"base_model": ("base_model", "base_models"), "dataset": ("datasets", "dataset")}
_HUB = "https://huggingface.co/"
_DATASETS = "datasets/"
"""In links to the hub's datasets, not in their names."""
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def read_card(folder: Path, config: Mapping[str, Any], warnings: list[str]) -> tuple[General, str | None]:
    """What the folder says about its origin, under GGUF's keys, and the text of its README.md."""
    text = None
    try:
        path = find_sidecar(folder, FILE) if config else None  # else it can be the README.md of anything
        text = None if path is None else read_text(path, MAX_CARD_BYTES)
    except CheckpointError as error:
        warnings.append(f"{FILE} is not read: {error.found}")
    stated = general_of_card(read_front_matter(text or ""))
    named = _of_cache(folder) or _of_repository(config.get("_name_or_path"))
    return named | stated, text


def general_of_card(card: Card) -> General:
    """GGUF's keys for a card's front matter."""
    found: General = {}
    for key, names in _TEXTS.items():
        value = next((card[name] for name in names if name in card), None)
        if value:
            found[key] = value if isinstance(value, str) else ",".join(value)
    for key, names in _LISTS.items():
        items = [item for name in names for item in _listed(card.get(name))]
        if items:
            found[key] = list(dict.fromkeys(items))[:MAX_ITEMS]
    for key, names in _MODELS.items():
        stated = next((card[name] for name in names if name in card), None)
        models = _listed(stated)[:64]
        for number, model in enumerate(models):
            found |= {f"{key}.{number}.{part}": value for part, value in _reference(model).items()}
        found |= {f"{key}.count": len(models)} if models else {}
    return found


def card_text(metadata: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The README.md of a model with this `.apr` metadata (None: nothing is known), and GGUF's keys that it lacks."""
    kept, config = metadata.get(CARD), metadata.get("hf_config")
    in_config = _of_repository(config.get("_name_or_path")) if isinstance(config, Mapping) else {}
    stated = {key: value for key, value in general(metadata).items() if in_config.get(key) != value}
    if isinstance(kept, str):
        stated = {key: value for key, value in stated.items() if key not in general_of_card(read_front_matter(kept))}
        return kept, _unwritten(stated, {})
    card: dict[str, str | list[str]] = {}
    for key, names in _TEXTS.items():
        if isinstance(stated.get(key), str):
            card[names[0]] = stated[key]
    card |= {names[0]: stated[key] for key, names in _LISTS.items() if isinstance(stated.get(key), list)}
    for key, names in _MODELS.items():
        models = list(_references(stated, key))
        card |= {names[0]: models} if models else {}
    return (write_front_matter(card) if card else None), _unwritten(stated, general_of_card(dict(card)))


def _unwritten(stated: General, written: General) -> tuple[str, ...]:
    """The keys that the card does not give back; sampling settings are in generation_config.json."""
    return tuple(
        f"general.{key}"
        for key, value in stated.items()
        if written.get(key) != value and not key.startswith("sampling.") and key != "name"
    )


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _reference(model: str) -> dict[str, str]:
    """Name, organization and repository of a model that a card names: `owner/name`, a link, or a bare name."""
    name = model.removeprefix(_HUB).removeprefix(_DATASETS if model.startswith(_HUB) else "")
    if _REPOSITORY.fullmatch(name):
        owner, _, short = name.partition("/")
        return {"name": short, "organization": owner, "repo_url": model if model != name else f"{_HUB}{name}"}
    return {"repo_url": model} if model.startswith(("http://", "https://")) else {"name": model}


def _references(stated: General, key: str) -> list[str]:
    """How a card names the models (or datasets) under `key`."""
    count = stated.get(f"{key}.count")
    found = []
    for number in range(min(count, 64) if isinstance(count, int) else 0):
        parts = {part: stated.get(f"{key}.{number}.{part}") for part in ("repo_url", "name")}
        named = next((value for value in parts.values() if isinstance(value, str)), None)
        found += [named.removeprefix(_HUB).removeprefix(_DATASETS)] if named else []
    return found


def _of_cache(folder: Path) -> General:
    """The name of a folder in the hub's cache: `models--OWNER--NAME/snapshots/REVISION`."""
    home, above = folder.parent.parent.name, folder.parent.name
    if above != "snapshots" or not home.startswith("models--"):
        return {}
    return _of_repository(home.removeprefix("models--").replace("--", "/", 1))


def _of_repository(stated: Any) -> General:
    """The name in `_name_or_path`, unless that is a path of somebody's computer."""
    if not isinstance(stated, str) or not re.fullmatch(r"([\w.-]+/)?[\w.-]*\w[\w.-]*", stated) or stated[0] == ".":
        return {}
    owner, _, name = stated.rpartition("/")
    return {"name": name, **({"organization": owner} if owner else {})}
