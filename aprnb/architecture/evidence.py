"""What each source says about the architecture's fields, in the order in which they are believed.

Tensor shapes prove; then `--set`; a config that a person gives, or one beside the file whose dimensions fit; the
config inside the metadata; the typed metadata. Family rules come last and live with the families.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aprnb.architecture.architecture import FIELDS
from aprnb.architecture.families import Family
from aprnb.architecture.names import canonical_name, layer_of
from aprnb.errors import ArchitectureError, FileMissing, UsageProblem, closest
from aprnb.formats import TensorEntry
from aprnb.formats.metadata import lookup

MAX_CONFIG_BYTES = 16 << 20

_INTEGERS = (
    "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size vocab_size"
    " max_position_embeddings"
).split()
_METADATA_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "rms_norm_eps",
}


@dataclass(frozen=True)
class Evidence:
    """One source's statements: field → (value, where exactly it says so)."""

    says: dict[str, tuple[Any, str]] = field(default_factory=dict)
    given_by_person: bool = False


def from_overrides(overrides: Mapping[str, Any]) -> Evidence:
    """`--set field=value`, values as typed or as text (`none` for no value)."""
    says = {}
    for name, value in overrides.items():
        if name not in FIELDS:
            raise UsageProblem(f"--set {name}: no such field{closest(name, FIELDS)}", expected=", ".join(FIELDS))
        where = f"--set {name}"
        says[name] = (_checked(name, _parsed(value) if isinstance(value, str) else value, where), where)
    return Evidence(says, given_by_person=True)


def _parsed(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


def read_config(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """A Hugging Face config as an object, and its name for messages."""
    if isinstance(source, Mapping):
        return source, "config"
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise FileMissing(f"no config at {path}", action="give the model's config.json with --config")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UsageProblem(f"{path} takes {path.stat().st_size:,} bytes", expected=f"at most {MAX_CONFIG_BYTES:,}")
    try:
        parsed = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageProblem(f"{path} is not JSON: {error}", action="give the model's config.json") from None
    if not isinstance(parsed, dict):
        raise UsageProblem(f"{path} holds a JSON {type(parsed).__name__}", expected="an object")
    return parsed, path.name


def from_config(config: Mapping[str, Any], name: str, given_by_person: bool) -> Evidence:
    """A Hugging Face config's statements; RoPE in its old and its new place."""
    says: dict[str, tuple[Any, str]] = {}
    for key in FIELDS:
        if config.get(key) is not None and key not in ("rope_scaling", "sliding_window"):
            says[key] = (_checked(key, config[key], f"{name} {key}"), f"{name} {key}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if isinstance(rope, Mapping) and "rope_theta" not in says and rope.get("rope_theta") is not None:
        where = f"{name} rope_parameters.rope_theta"
        says["rope_theta"] = (_checked("rope_theta", rope["rope_theta"], where), where)
    if "rope_scaling" in config or "rope_parameters" in config:
        says["rope_scaling"] = (
            _scaling(rope),
            f"{name} {'rope_scaling' if 'rope_scaling' in config else 'rope_parameters'}",
        )
    if "sliding_window" in config:
        window = config["sliding_window"] if config.get("use_sliding_window", True) else None
        says["sliding_window"] = (
            _checked("sliding_window", window, f"{name} sliding_window"),
            f"{name} sliding_window",
        )
    return Evidence(says, given_by_person)


def _scaling(rope: Any) -> dict[str, Any] | None:
    if not isinstance(rope, Mapping):
        raise ArchitectureError(f"rope_scaling is {rope!r}", expected="an object or null")
    kept = {key: value for key, value in rope.items() if key != "rope_theta"}
    kind = kept.get("rope_type", kept.get("type", "default"))
    return None if kind == "default" else {**kept, "rope_type": kind}


def from_metadata(metadata: Mapping[str, Any]) -> tuple[Evidence, list[str]]:
    """The typed metadata, and why it is not believed where its writer is known to have guessed."""
    says = {}
    for name, key in _METADATA_KEYS.items():
        hit = lookup(metadata, key)
        if hit:
            where = f"metadata {hit[0]}"
            says[name] = (_checked(name, hit[1], where), where)
    distrust = _why_guessed(metadata)
    if not distrust:
        return Evidence(says), []
    guessed = ", ".join(f"{where.removeprefix('metadata ')} {value}" for value, where in says.values())
    return Evidence(), [f"metadata is not believed ({distrust}): {guessed}"] if says else []


def _why_guessed(metadata: Mapping[str, Any]) -> str | None:
    """Two writers put guesses or constants in place of the source's figures (`apr convert` without a config)."""
    if metadata.get("description") == "Q4K quantized from SafeTensors":
        return "its writer stamps the same figures on every model"
    dims = lookup(metadata, "num_heads") or lookup(metadata, "hidden_size")
    if dims and not lookup(metadata, "rope_theta") and not lookup(metadata, "rms_norm_eps"):
        return "its writer inferred the figures from shapes and guessed the head counts"
    return None


def _checked(name: str, value: Any, where: str) -> Any:
    """`value` in the field's type; raises ArchitectureError for anything else."""
    if name in _INTEGERS or (name == "sliding_window" and value is not None):
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ArchitectureError(f"{where} is {_short(value)}", expected="a positive integer")
    elif name in ("rope_theta", "rms_norm_eps"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ArchitectureError(f"{where} is {_short(value)}", expected="a positive number")
        return float(str(np.float32(value)))
    elif name in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        if not isinstance(value, bool):
            raise ArchitectureError(f"{where} is {_short(value)}", expected="true or false")
    elif name in ("model_type", "hidden_act") and not isinstance(value, str):
        raise ArchitectureError(f"{where} is {_short(value)}", expected="a name")
    return _scaling(value) if name == "rope_scaling" and value is not None else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def from_shapes(tensors: Mapping[str, TensorEntry], family: Family) -> tuple[Evidence, dict[str, int]]:
    """What the index proves, and the q and k row counts that still need a head count to be read.

    Where layers disagree the commonest value counts here, so that the contract can name the odd ones.
    """
    shapes = {canonical_name(name, family): (name, entry.shape) for name, entry in tensors.items()}
    says: dict[str, tuple[Any, str]] = {}

    def prove(name: str, suffix: str, rank: int, axis: int = 0) -> int | None:
        hits = [
            (file_name, shape)
            for key, (file_name, shape) in shapes.items()
            if key.endswith(suffix) and len(shape) == rank
        ]
        if not hits:
            return None
        value, _ = Counter(shape[axis] for _, shape in hits).most_common(1)[0]
        first = min((n for n, shape in hits if shape[axis] == value), key=lambda n: (layer_of(n) or 0, n))
        says[name] = (value, f"shape of {first}")
        return value

    prove("hidden_size", "input_layernorm.weight", 1)
    prove("vocab_size", "embed_tokens.weight", 2)
    prove("intermediate_size", "mlp.up_proj.weight", 2)
    layers = [layer for name in tensors if (layer := layer_of(name)) is not None]
    if layers:
        says["num_hidden_layers"] = (max(layers) + 1, "layers in the tensor index")
    prove("head_dim", "self_attn.q_norm.weight", 1)
    for flag, suffix in (("attention_bias", "self_attn.q_proj.bias"), ("mlp_bias", "mlp.up_proj.bias")):
        if any(rule.when == flag for rule in family.tensors):
            count = sum(key.endswith(suffix) for key in shapes)
            present = 2 * count > len(set(layers))
            says[flag] = (present, f"{suffix} in {count} of {len(set(layers))} layers")
    rows = {key: prove(f"{key} rows", f"self_attn.{key}.weight", 2) for key in ("q_proj", "k_proj")}
    for key in rows:
        says.pop(f"{key} rows", None)
    return Evidence(says), {key: value for key, value in rows.items() if value}
