"""The files of a Hugging Face folder besides config.json, tokenizer.json and weights, as `.apr` metadata.

Each JSON file is kept whole under a key of its own. Chat templates are in `chat_template` and, where they have other
names, in `chat_templates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.json_files import MAX_TOKENIZER_VALUES, read_object, read_text
from aprnb.formats.sidecar_files import find_sidecar, safe_path
from aprnb.formats.source import is_folder
from aprnb.printable import visible

GENERATION, TOKENIZER_CONFIG = "hf_generation_config", "hf_tokenizer_config"
SPECIAL_TOKENS, ADDED_TOKENS = "hf_special_tokens_map", "hf_added_tokens"
KEPT_FILES = {
    GENERATION: "generation_config.json",
    TOKENIZER_CONFIG: "tokenizer_config.json",
    SPECIAL_TOKENS: "special_tokens_map.json",
    ADDED_TOKENS: "added_tokens.json",
}
"""Key of `.apr` metadata → the JSON file that it keeps."""
TEMPLATE, TEMPLATES = "chat_template", "chat_templates"
TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")
MAX_TEMPLATE_BYTES = 4 << 20
MAX_TEMPLATES = 64


def read_kept_files(folder: Path, warnings: list[str]) -> dict[str, Any]:
    """The JSON files of KEPT_FILES but tokenizer_config.json; one that cannot be read is a warning."""
    found: dict[str, Any] = {}
    for key, name in KEPT_FILES.items():
        try:
            path = None if key == TOKENIZER_CONFIG else find_sidecar(folder, name)
            if path is not None:
                found[key] = read_object(path, most=MAX_TOKENIZER_VALUES)
        except CheckpointError as error:
            warnings.append(f"{name} is not read: {error.found}")
    return found


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; empty where there is none. Raises CheckpointError."""
    path = find_sidecar(folder, KEPT_FILES[TOKENIZER_CONFIG])
    return {} if path is None else read_object(path, most=MAX_TOKENIZER_VALUES)


def read_templates(folder: Path, settings: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """`chat_template` and `chat_templates` (name → text) from all places in which folders keep them.

    Of two default templates the file's is used, as in `transformers`; the other one is a warning, and so is a file
    that cannot be read.
    """
    inside = _named(settings.get(TEMPLATE))
    legacy = find_sidecar(folder, "chat_template.json")
    if legacy is not None:
        with _warned("chat_template.json", warnings):
            inside = _named(read_object(legacy).get(TEMPLATE)) | inside
    files = _template_files(folder, warnings)
    for name, text in files.items():
        if name in inside and inside[name] != text:
            which = "chat_template.jinja" if name == "default" else f"the file of {visible(name)!r}"
            warnings.append(f"two different chat templates: {which} is used, tokenizer_config.json's is not")
    every = inside | files
    found: dict[str, Any] = {TEMPLATE: every.pop("default")} if "default" in every else {}
    return found | ({TEMPLATES: dict(sorted(every.items()))} if every else {})


def named_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The templates of `.apr` metadata that have a name of their own."""
    stated = metadata.get(TEMPLATES)
    return (
        {key: value for key, value in stated.items() if isinstance(value, str)} if isinstance(stated, Mapping) else {}
    )


def _named(found: Any) -> dict[str, str]:
    """Name → text of a `chat_template` that is one text, a list of {name, template}, or an object."""
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, Mapping):
        return {name: text for name, text in found.items() if isinstance(text, str)}
    entries = [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
    pairs = [(each.get("name"), each.get("template")) for each in entries]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


@contextmanager
def _warned(name: str, warnings: list[str]) -> Iterator[None]:
    """A file that cannot be read is a warning: the rest of the folder is kept."""
    try:
        yield
    except CheckpointError as error:
        warnings.append(f"{visible(name)} is not read: {error.found}")


def _template_files(folder: Path, warnings: list[str]) -> dict[str, str]:
    path = find_sidecar(folder, "chat_template.jinja")
    found: dict[str, str] = {}
    if path is not None:
        with _warned(path.name, warnings):
            found["default"] = read_text(path, MAX_TEMPLATE_BYTES)
    for name in TEMPLATE_FOLDERS:
        if is_folder(folder / name):
            within = safe_path(folder, name)
            files = sorted(each.name for each in within.iterdir() if each.suffix == ".jinja")
            if len(files) > MAX_TEMPLATES:
                raise CheckpointError(f"{within} holds {len(files)} templates", expected=f"at most {MAX_TEMPLATES}")
            for file in files:
                each = find_sidecar(within, file)
                if each is not None:
                    with _warned(f"{name}/{file}", warnings):
                        found.setdefault(file.removesuffix(".jinja"), read_text(each, MAX_TEMPLATE_BYTES))
    return found
