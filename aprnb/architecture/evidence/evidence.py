"""What each source states about the architecture's fields.

Their order of precedence: tensor shapes, `--set`, a config given by the user or a sidecar config whose
dimensions fit, the config inside the metadata, the typed metadata. The rules of the family come last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aprnb.architecture.evidence.field_values import checked, known_fields
from aprnb.architecture.evidence.gguf_values import GgufKeys
from aprnb.architecture.families import Family
from aprnb.architecture.names import canonical_pattern, layer_of
from aprnb.errors import UsageProblem, closest
from aprnb.formats import Checkpoint, TensorEntry
from aprnb.formats.fields import TYPED
from aprnb.formats.metadata import lookup


@dataclass(frozen=True)
class Evidence:
    """One source's statements: field → (value, where exactly it is stated).

    `leaves_out`: field → (value, key) for what a config does not state and its class has a default for.
    """

    says: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    leaves_out: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    given_by_user: bool = False


def from_overrides(overrides: Mapping[str, Any]) -> Evidence:
    """`--set field=value`, values as typed or as text (`none` for no value)."""
    says = {}
    for name, value in overrides.items():
        known = known_fields()
        if name not in known:
            raise UsageProblem(f"--set {name}: no such field{closest(name, known)}", expected=", ".join(known))
        where = f"--set {name}"
        says[name] = (checked(name, _parsed(value) if isinstance(value, str) else value, where), where)
    return Evidence(says, given_by_user=True)


def _parsed(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


def from_metadata(checkpoint: Checkpoint, family: Family, said: Collection[str] = ()) -> tuple[Evidence, list[str]]:
    """The typed metadata, and a warning where it is ignored because its writer is known to guess.

    Those of a GGUF file are its own keys, by which messages name them. Those of a folder repeat its config.json: only
    what that has under another spelling, and has not `said` before, counts.
    """
    metadata, says = checkpoint.metadata, {}
    keys = GgufKeys(checkpoint, family) if checkpoint.format == "gguf" else None
    config = metadata.get("hf_config") if checkpoint.format in ("huggingface", "safetensors") else None
    for key, row in TYPED.items():
        hit = lookup(metadata, key)
        if hit and row.name in family.fields and not (isinstance(config, Mapping) and row.name in said):
            where = keys.source_of(row) if keys else f"metadata {hit[0]}"
            if isinstance(config, Mapping):
                where = f"config.json {next((name for name in row.config if config.get(name) is not None), row.name)}"
            says[row.name] = (checked(row.name, hit[1], where), where)
    distrust = _why_guessed(metadata)
    if not distrust:
        return Evidence(says), []
    guessed = ", ".join(f"{where.removeprefix('metadata ')} {value}" for value, where in says.values())
    return Evidence(), [f"metadata is not used ({distrust}): {guessed}"] if says else []


def _why_guessed(metadata: Mapping[str, Any]) -> str | None:
    """Two writers store guesses or constants instead of the source's values (`apr convert` without a config)."""
    if metadata.get("description") == "Q4K quantized from SafeTensors":
        return "its writer stores the same values for every model"
    dims = lookup(metadata, "num_heads") or lookup(metadata, "hidden_size")
    if dims and not lookup(metadata, "rope_theta") and not lookup(metadata, "rms_norm_eps"):
        return "its writer inferred the values from shapes and guessed the head counts"
    return None


def from_shapes(tensors: Mapping[str, TensorEntry], family: Family) -> tuple[Evidence, dict[str, int]]:
    """What tensor shapes prove, and the row counts of q and k, which prove the head size once the heads are known.

    A dimension of the family's table that is one field proves that field. Where layers disagree the commonest value
    is taken, so that the contract can name the other layers.
    """
    found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, entry in tensors.items():
        found.setdefault(canonical_pattern(name, family), []).append((name, entry.shape))
    says: dict[str, tuple[Any, str]] = {}
    for rule in sorted(family.tensors, key=lambda rule: len(rule.shape)):
        for axis, field_name in enumerate(rule.shape):
            if field_name in family.fields and field_name not in says:
                proven = _commonest(found.get(rule.name, ()), len(rule.shape), axis)
                if proven:
                    says[field_name] = proven
    layers = {layer for name in tensors if (layer := layer_of(name)) is not None}
    if layers:
        where = "layers in the tensor index"
        says["num_hidden_layers"] = (checked("num_hidden_layers", max(layers) + 1, where), where)
    for flag in ("attention_bias", "mlp_bias"):
        optional = next((rule for rule in family.tensors if rule.when == flag), None)
        if optional is not None:
            count = len(found.get(optional.name, ())) or len(found.get(optional.fused or "", ()))
            suffix = optional.name.split(".", 3)[-1]
            says[flag] = (2 * count > len(layers), f"{suffix} in {count} of {len(layers)} layers")
    rows = {}
    for key in ("q_proj", "k_proj", "qkv_proj"):
        proven = _commonest(found.get(f"model.layers.{{layer}}.self_attn.{key}.weight", ()), 2, 0)
        if proven:
            rows[key] = proven[0]
    return Evidence(says), rows


def _commonest(hits: Sequence[tuple[str, tuple[int, ...]]], rank: int, axis: int) -> tuple[int, str] | None:
    fitting = [(name, shape) for name, shape in hits if len(shape) == rank]
    if not fitting:
        return None
    value, _ = Counter(shape[axis] for _, shape in fitting).most_common(1)[0]
    first = min((name for name, shape in fitting if shape[axis] == value), key=lambda name: (layer_of(name) or 0, name))
    return value, f"shape of {first}"
