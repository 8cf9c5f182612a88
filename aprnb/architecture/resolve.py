"""Resolves the architecture of a checkpoint, each field with its source; an undetermined field is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from aprnb.architecture.architecture import Architecture
from aprnb.architecture.buffers import buffer_notes, is_buffer_name, stored_buffers
from aprnb.architecture.evidence.configs import config_name, from_config, read_config, unknown_keys
from aprnb.architecture.evidence.evidence import Evidence, from_metadata, from_overrides, from_shapes
from aprnb.architecture.evidence.field_values import MAX_BLOCKS
from aprnb.architecture.evidence.gguf_keys import from_gguf
from aprnb.architecture.evidence.gguf_unread import unread_keys
from aprnb.architecture.families import Family, family_named
from aprnb.architecture.identify import identify_family
from aprnb.architecture.orientation import is_training_state, odd_layout, oriented, training_state
from aprnb.architecture.settlement import Settlement, advice
from aprnb.errors import ArchitectureError, CheckpointError, UnsupportedFamily, UsageProblem
from aprnb.formats import Checkpoint, TensorEntry
from aprnb.formats.sidecar_files import find_sidecar
from aprnb.formats.source import is_file
from aprnb.printable import short, shown_name

_DIMENSIONS = ("hidden_size", "num_hidden_layers", "head_dim", "intermediate_size", "vocab_size")
MAX_CONFIG_CHARACTERS = 1 << 20


def resolve(
    checkpoint: Checkpoint,
    *,
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Architecture:
    """The architecture of `checkpoint`; `config` and `overrides` come from the user.

    Raises ArchitectureError that names every contradicted or undetermined field and what to do about it.
    """
    overridden = from_overrides(overrides or {})
    given_config = read_config(config) if config is not None else None
    family, named_by, warnings = identify_family(checkpoint, _given_family(overridden, given_config))
    given = [overridden]
    if given_config is not None:
        given.append(from_config(*given_config, given_by_user=True, family=family))
    proven, rows = from_shapes(_weights(checkpoint), family)
    _, sidecar, sidecar_warnings = (
        _sidecar_config(checkpoint, proven, family) if given_config is None else (None, [], [])
    )
    inner, inner_warnings = _inner_configs(checkpoint, family)
    gguf, factors = from_gguf(checkpoint, family, {name for source in given for name in source.says})
    typed, typed_warnings = from_metadata(checkpoint, family, {name for source in inner for name in source.says})
    settlement = Settlement(family, named_by, proven, [*given, *sidecar, *inner, gguf, typed])
    settlement.warnings += [*warnings, *sidecar_warnings, *typed_warnings, *inner_warnings]
    settlement.warnings += [*odd_layout(checkpoint), *unread_keys(checkpoint, family)]
    settlement.settle_head(checkpoint)
    settlement.superseded += (*factors, *training_state(checkpoint))
    settlement.settle_all(rows)
    buffers = stored_buffers(checkpoint, settlement.values)
    settlement.superseded += buffers
    settlement.warnings += buffer_notes(buffers)
    _bound_size(settlement.values, checkpoint.path)
    _require_consistent(settlement.values, checkpoint.path)
    return settlement.architecture(checkpoint.path)


def _given_family(overridden: Evidence, given_config: tuple[Mapping[str, Any], str] | None) -> tuple[str, str] | None:
    """The model type given by the user, with its source."""
    if "model_type" in overridden.says:
        return overridden.says["model_type"]
    if given_config is None or not isinstance(given_config[0].get("model_type"), str):
        return None
    config, name = given_config
    return config["model_type"], f"{name} model_type"


def _inner_configs(checkpoint: Checkpoint, family: Family) -> tuple[list[Evidence], list[str]]:
    """The configs inside the metadata: the source's own, and the text that a trainer wrote."""
    found, warnings = [], []
    inner = checkpoint.metadata.get("hf_config")
    if isinstance(inner, Mapping):
        name = config_name(checkpoint)
        found.append(from_config(inner, name, False, family))
        warnings = _unknown(name, unknown_keys(inner, family))
    text = checkpoint.metadata.get("model_config")
    if isinstance(text, str) and len(text) <= MAX_CONFIG_CHARACTERS:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict):
            parsed.setdefault("head_dim", parsed.pop("head_dim_override", None))
            parsed.setdefault("num_key_value_heads", parsed.pop("num_kv_heads", None))
            found.append(from_config(parsed, "metadata model_config", False, family))
    return found, warnings


def _unknown(name: str, keys: list[str]) -> list[str]:
    """A warning for each of the first ten unknown keys, and one that counts the rest."""
    warnings = [
        f"{name} {shown_name(key)} is unknown and not used; the result is wrong if it changes the forward pass"
        for key in keys[:10]
    ]
    rest = len(keys) - 10
    return [*warnings, f"{name} has {rest:,} more unknown keys"] if rest > 0 else warnings


def _bound_size(values: Mapping[str, Any], path: Path) -> None:
    """Raises for so many layers and experts that a list of their tensors would fill the memory."""
    blocks = values.get("num_hidden_layers", 1) * values.get("num_experts", 1)
    if blocks > MAX_BLOCKS:
        raise ArchitectureError(
            f"num_hidden_layers × num_experts is {blocks:,}", expected=f"at most {MAX_BLOCKS:,}", where=str(path)
        )


def _require_consistent(values: Mapping[str, Any], path: Path) -> None:
    """Raises for fields that are each valid but contradict each other."""
    experts, chosen = values.get("num_experts"), values.get("num_experts_per_tok")
    if experts is not None and chosen is not None and chosen > experts:
        raise ArchitectureError(f"num_experts_per_tok is {chosen} of {experts} experts", where=str(path))
    kinds, layers = values.get("layer_types"), values.get("num_hidden_layers")
    if kinds is not None and layers is not None:
        unknown = sorted(set(kinds) - {"full_attention", "sliding_attention"})
        if unknown or len(kinds) != layers:
            found = f"layer_types has {short(unknown[0])}" if unknown else f"layer_types lists {len(kinds)} layers"
            expected = f"full_attention or sliding_attention for each of {layers} layers"
            raise ArchitectureError(found, expected=expected, where=str(path))
        if "sliding_window" in values and values["sliding_window"] is None:
            raise ArchitectureError("layer_types has windowed layers, but sliding_window is null",
                                    where=str(path), action=advice(["sliding_window"], {}))  # fmt: skip
    rotated = values.get("no_rope_layers")
    if rotated is not None and layers is not None and len(rotated) != layers:
        raise ArchitectureError(
            f"no_rope_layers lists {len(rotated)} layers", expected=f"each of {layers} layers", where=str(path)
        )


def sidecar_config(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """The config next to the file from which `resolve` takes fields; None where there is none, or it does not fit."""
    names = (checkpoint.path.with_suffix(".config.json").name, "config.json")
    if not any(is_file(checkpoint.path.parent / name) for name in names):
        return None
    family, _, _ = identify_family(checkpoint, None)
    proven, _ = from_shapes(_weights(checkpoint), family)
    return _sidecar_config(checkpoint, proven, family)[0]


def _weights(checkpoint: Checkpoint) -> dict[str, TensorEntry]:
    return {
        name: entry
        for name, entry in oriented(checkpoint).items()
        if not (is_training_state(name) or is_buffer_name(name))
    }


def _sidecar_config(
    checkpoint: Checkpoint, proven: Evidence, family: Family
) -> tuple[Mapping[str, Any] | None, list[Evidence], list[str]]:
    """A config next to the file, used only if every dimension it states fits the tensors; its evidence; warnings.

    A Hugging Face folder's own config is part of its metadata; files outside the folder do not belong to it.
    """
    path = checkpoint.path
    if checkpoint.format in ("huggingface", "safetensors"):
        return None, [], []
    for name in (path.with_suffix(".config.json").name, "config.json"):
        try:
            candidate = find_sidecar(path.parent, name)
            if candidate is None:
                continue
            config, _ = read_config(candidate)
            kind = config.get("model_type")
            if isinstance(kind, str) and family_named(kind) is not family:
                return None, [], [f"{name} next to the file is not used, it describes another model: model_type {kind}"]
            evidence = from_config(config, name, False, family)
        except UnsupportedFamily:
            raise
        except (ArchitectureError, CheckpointError, UsageProblem) as error:
            return None, [], [f"{name} next to the file is not used: {error.found}"]
        misfit = [
            f"{field} {evidence.says[field][0]} (tensors: {proven.says[field][0]})"
            for field in _DIMENSIONS
            if field in evidence.says and field in proven.says and evidence.says[field][0] != proven.says[field][0]
        ]
        if misfit:
            return None, [], [f"{name} next to the file is not used, it describes another model: {', '.join(misfit)}"]
        return config, [evidence], []
    return None, [], []
