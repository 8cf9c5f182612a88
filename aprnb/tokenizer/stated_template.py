"""The chat template that a checkpoint states, in its metadata or beside it: one order for the card and the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.formats.json_files import read_object, read_text
from aprnb.formats.sidecar_files import Sidecars, safe_path

KEYS = ("chat_template", "tokenizer.chat_template")


@dataclass(frozen=True, slots=True)
class StatedTemplate:
    """`value` is text, or whatever stands in the template's place; `source` says where."""

    value: Any
    source: str
    warnings: tuple[str, ...] = ()


def stated_template(metadata: Mapping[str, Any], sidecars: Sidecars) -> StatedTemplate | None:
    """The template that counts; a second one that differs is a warning.

    Raises CheckpointError for a file beside the checkpoint that cannot be read, or is a link out of its folder.
    """
    stated = [StatedTemplate(metadata[key], f"metadata {key}") for key in KEYS if metadata.get(key)]
    found = stated or _beside(sidecars)
    if len(found) == 2 and found[0].value != found[1].value:
        note = f"two chat templates that differ: {found[0].source} is used, {found[1].source} is not"
        return StatedTemplate(found[0].value, found[0].source, (note,))
    return found[0] if found else None


def _beside(sidecars: Sidecars) -> list[StatedTemplate]:
    found = []
    if sidecars.template is not None:
        found.append(StatedTemplate(read_text(_safe(sidecars.template)), f"{sidecars.template.name} beside the file"))
    if sidecars.settings is not None:
        value = read_object(_safe(sidecars.settings)).get("chat_template")
        found += [] if value is None else [StatedTemplate(value, f"{sidecars.settings.name} beside the file")]
    return found


def _safe(path: Path) -> Path:
    return safe_path(path.parent, path.name)
