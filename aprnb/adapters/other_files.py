"""Files of a tokenizer and of generation in an adapter's folder: trainers save them there, merging uses the base's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.formats.huggingface.folder_files import (
    ADDED_TOKENS,
    GENERATION,
    KEPT_FILES,
    SPECIAL_TOKENS,
    TEMPLATE,
    TEMPLATE_FOLDERS,
    TEMPLATES,
    TOKENIZER_CONFIG,
)
from aprnb.formats.huggingface.metadata import read_kept_texts
from aprnb.formats.huggingface.slow_tokenizer import MERGES, PIECES, VOCAB
from aprnb.formats.huggingface.tokenizer_json import REST, is_filler
from aprnb.formats.source import is_file, is_folder
from aprnb.printable import first_names

_VOCABULARY = ("tokenizer.vocabulary", "tokenizer.merges", REST)
_SPECIAL = tuple(f"tokenizer.{name}_token_id" for name in ("bos", "eos", "padding", "unknown"))
_TEMPLATE = (TEMPLATE, TEMPLATES)
_KEYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("tokenizer.json", PIECES, VOCAB, MERGES, KEPT_FILES[ADDED_TOKENS]), _VOCABULARY),
    KEPT_FILES[TOKENIZER_CONFIG]: (*_SPECIAL, *_TEMPLATE),
    KEPT_FILES[SPECIAL_TOKENS]: _SPECIAL,
    KEPT_FILES[GENERATION]: (GENERATION,),
    **dict.fromkeys(("chat_template.jinja", "chat_template.json", *TEMPLATE_FOLDERS), _TEMPLATE),
}
"""File → the metadata that it states."""


def other_files(folder: Path, base: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning that names the files whose content is not that of the base with this metadata, and is not used."""
    names = [name for name in _KEYS if is_file(folder / name) or is_folder(folder / name)]
    if not names:
        return ()
    unread: list[str] = []
    stated = read_kept_texts(folder, {}, unread)
    differ = [name for name in names if any(_differs(key, stated, base) for key in _KEYS[name])]
    differ = differ or (names if unread else [])
    if not differ:
        return ()
    template = any(_differs(key, stated, base) for key in _TEMPLATE)
    also = "; --chat-template takes the name of a template file" if template else ""
    return (f"files of the adapter's folder that are not used, the base has its own: {first_names(differ, 12)}{also}",)


def _differs(key: str, stated: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether the adapter's folder states something else than the base. A GGUF file has no REST to compare with."""
    if key not in stated or (key == REST and key not in base):
        return False
    found, own = stated[key], base.get(key)
    if key == "tokenizer.vocabulary" and isinstance(own, list):
        rest = enumerate(own[len(found) :], len(found))  # rows of the embedding without a token
        return bool(found != own[: len(found)]) or not all(is_filler(text, number) for number, text in rest)
    return bool(found != own)
