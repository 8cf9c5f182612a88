"""Who made a model, from what, and under which licence: GGUF's `general.*` keys, which `.apr` metadata keep.

The typed keys of `.apr` (author, description, license, source) state four of them; the others are in the object
`provenance`, under their GGUF names without `general.`. A name there is the model's own; the typed `name`, which
`apr import` fills with the family or the file's name, and the typed `version` repeat them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from aprnb.formats.gguf.values import GgufValue

PROVENANCE = "provenance"
PREFIX = "general."
OF_THE_FILE = ("architecture", "type", "alignment", "file_type", "quantization_version")
"""Keys that describe the GGUF file itself: a writer sets its own."""
_TYPED = {"author": "author", "description": "description", "license": "license", "source": "source.url"}
_OF_DERIVED = ("license", "license.name", "license.link", "tags", "languages", "basename", "size_label")
"""What stays true of a model that is trained from another one."""
_OF_A_BASE = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
_INTEGERS = ("sampling.top_k", "sampling.penalty_last_n", "sampling.mirostat")
_KEY = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
MAX_KEYS, MAX_KEY_CHARACTERS, MAX_ITEMS = 512, 64, 4096

General = dict[str, Any]
"""GGUF's key without `general.` → text, texts, or a number."""


def general(metadata: Mapping[str, Any]) -> General:
    """What `.apr` metadata state, under GGUF's names; values of another form are left out."""
    stated = metadata.get(PROVENANCE)
    found = dict(list(stated.items())[:MAX_KEYS]) if isinstance(stated, Mapping) else {}
    found |= {key: metadata[apr] for apr, key in _TYPED.items() if metadata.get(apr)}
    return {key: value for key, value in found.items() if _is_key(key) and _is_value(value)}


def as_metadata(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The same as keys of `.apr` metadata, typed ones and `provenance`."""
    found = {apr: stated[key] for apr, key in _TYPED.items() if isinstance(stated.get(key), str)}
    found |= {key: stated[key] for key in ("name", "version") if isinstance(stated.get(key), str)}
    rest = {key: value for key, value in stated.items() if key not in (*_TYPED.values(), *OF_THE_FILE)}
    rest = {key: value for key, value in rest.items() if _is_key(key) and _is_value(value)}
    return {**found, **({PROVENANCE: rest} if rest else {})}


def own_name(metadata: Mapping[str, Any]) -> str | None:
    """The model's name; of an `.apr` without provenance the typed one, unless that is only its family's."""
    stated = general(metadata).get("name")
    typed = metadata.get("name")
    families = [metadata.get(key) for key in ("architecture", "hf_model_type", "model_type")]
    found = stated if stated is not None else typed if typed not in families else None
    return found if isinstance(found, str) and found.strip() else None


def derived(metadata: Mapping[str, Any], name: str, base_name: str) -> dict[str, Any]:
    """The keys of `.apr` metadata for a model called `name`, trained from the one that `metadata` describe.

    It has a licence, tags and languages like its base. Author, version, description and links are those of the base and
    stated as such.
    """
    base = general(metadata)
    stated = {key: base[key] for key in _OF_DERIVED if key in base}
    stated |= {"name": name, "base_model.count": 1, "base_model.0.name": own_name(metadata) or base_name}
    for key in _OF_A_BASE[1:]:
        value = base.get(key, base.get(f"source.{key}"))
        if isinstance(value, str):
            stated[f"base_model.0.{key}"] = value
    return as_metadata(stated)


def requantized(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without who quantised the source: not true of tensors that are quantised again."""
    stated = metadata.get(PROVENANCE)
    kept = dict(stated) if isinstance(stated, Mapping) else {}
    kept.pop("quantized_by", None)
    others = {key: value for key, value in metadata.items() if key != PROVENANCE}
    return {**others, **({PROVENANCE: kept} if kept else {})}


def gguf_value(key: str, value: Any) -> GgufValue:
    """`value` in the type that GGUF's key has: texts, float32 for sampling, else unsigned integers."""
    if isinstance(value, str):
        return GgufValue("string", value)
    if isinstance(value, list):
        return GgufValue("array[string]", value)
    if isinstance(value, bool):
        return GgufValue("bool", value)
    if key in _INTEGERS:
        return GgufValue("int32", int(value))
    return GgufValue("float32" if isinstance(value, float) or key.startswith("sampling.") else "uint32", value)


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= MAX_KEY_CHARACTERS and _KEY.fullmatch(key) is not None


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= MAX_ITEMS and all(isinstance(item, str) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool) or (isinstance(value, int) and 0 <= value < 1 << 32)
