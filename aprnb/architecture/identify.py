"""Identifies the family of a checkpoint by the name that it states and the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.architecture.buffers import is_buffer_name
from aprnb.architecture.evidence.configs import config_name
from aprnb.architecture.families import FAMILIES, Family, family_named, family_of_gguf
from aprnb.architecture.names import families_with, unknown_tensors, wrapper_prefix
from aprnb.architecture.orientation import is_training_state
from aprnb.architecture.settlement import GIVE_CONFIG
from aprnb.architecture.unsupported import describe_kind, reject_adapters, reject_quantised
from aprnb.errors import ArchitectureError, UnsupportedFamily
from aprnb.formats import Checkpoint
from aprnb.formats.fields import INTERLEAVED
from aprnb.formats.gguf.metadata import key_name
from aprnb.formats.gguf.provenance import own_name
from aprnb.printable import short, shown_name

_WITH_WEIGHTS = "give the file that contains the weights"
_NOT_A_NAME = ("", "auto", "unknown")


def identify_family(checkpoint: Checkpoint, given: tuple[Any, str] | None) -> tuple[Family, str, list[str]]:
    """The family, what names it, and warnings about other names; `given` is the user's name for it with its source.

    Raises UnsupportedFamily for an unknown family, ArchitectureError where the tensors are those of another one.
    """
    reject_adapters(checkpoint)
    reject_quantised(checkpoint)
    if not checkpoint.tensors and "tokenizer.vocabulary" in checkpoint.metadata:
        raise _rejection(f"{checkpoint.path.name} contains a vocabulary and no tensors", checkpoint.path, _WITH_WEIGHTS)
    claims = _claims(checkpoint)
    name, where = given or (claims[0] if claims else ("", ""))
    if not name:
        kind = checkpoint.metadata.get("model_type") or "none"
        found = f"the metadata do not name a transformer (model_type {short(kind)})"
        raise _rejection(found, checkpoint.path, GIVE_CONFIG)
    family = family_named(name)
    if family is None:
        raise _rejection(f"family {short(name)} ({where}) is not supported{describe_kind(name)}", checkpoint.path)
    warnings = []
    for other, other_where in claims:
        if family_named(other) is not family:
            text = f"model_type is {family.model_type} according to {where}, {other[:60]} according to {other_where}"
            if not given:
                raise ArchitectureError(text, where=str(checkpoint.path), action=GIVE_CONFIG)
            warnings.append(text)
    _require_own_tensors(checkpoint, family, where)
    return family, where, warnings


def _require_own_tensors(checkpoint: Checkpoint, family: Family, where: str) -> None:
    """Raises where the tensors' names are those of other families, or of a kind of model that is not supported."""
    names = [name for name in checkpoint.tensors if not (is_training_state(name) or is_buffer_name(name))]
    possible = families_with(names)
    unknown = unknown_tensors(names, family)
    if unknown and (prefix := wrapper_prefix(names, family)):
        raise ArchitectureError(
            f"names of tensors have the prefix {shown_name(prefix)}, as {shown_name(unknown[0])} has",
            expected=f"the names of a {family.model_type} model",
            where=str(checkpoint.path),
            action="save the model inside the wrapper (`_orig_mod`, `module`), or rename the tensors without it",
        )
    kind = next((kind for name in unknown if (kind := describe_kind(name))), None)
    if kind:
        raise _rejection(f"tensor {unknown[0]} belongs to another kind of model{kind}", checkpoint.path)
    if possible and family.model_type not in possible:
        raise ArchitectureError(
            f"model_type is {family.model_type} according to {where}, "
            f"but tensor {unknown[0]} belongs to {' or '.join(sorted(possible))}",
            where=str(checkpoint.path),
            action=GIVE_CONFIG,
        )


def _claims(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Every name of a family in the metadata, best first; `model_type` is used only where no other key names one."""
    keys = ("hf_model_type", "architecture", "hf_architecture", "model.architecture")
    metadata = checkpoint.metadata
    inner = metadata.get("hf_config")
    claims = (
        [(inner["model_type"], f"{config_name(checkpoint)} model_type")]
        if isinstance(inner, Mapping) and inner.get("model_type")
        else []
    )
    claims += [(metadata[key], _named(checkpoint, key)) for key in keys if metadata.get(key)]
    if not claims and family_named(str(metadata.get("model_type", ""))):
        claims = [(metadata["model_type"], _named(checkpoint, "model_type"))]
    return [(str(name), where) for name, where in claims if str(name).lower() not in _NOT_A_NAME]


def _named(checkpoint: Checkpoint, key: str) -> str:
    """The file's own key for a name of the family in the metadata."""
    if checkpoint.format in ("apr", "gguf"):
        return key_name(checkpoint.metadata, key)
    return f"{config_name(checkpoint)} {'architectures' if key == 'hf_architecture' else 'model_type'}"


def _rejection(found: str, path: Path, action: str = "inspection still shows its tensors") -> UnsupportedFamily:
    return UnsupportedFamily(found, expected=f"one of {', '.join(FAMILIES)}", where=str(path), action=action)


def gguf_names(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The family and its rotation in `.apr` metadata of a GGUF file, which names a graph; empty for an unknown one."""
    family = family_of_gguf(metadata["architecture"], bool(metadata.get("num_experts")))
    if family is None:
        return {}
    rotation = {"rope_type": INTERLEAVED} if "rope_type" in metadata and family.gguf.permutes_rows else {}
    named = dict.fromkeys(("model_type", "architecture", "hf_model_type"), family.model_type)
    if own_name(metadata) is None:
        named["name"] = family.model_type
    return {**named, "hf_architecture": family.class_name, **rotation}
