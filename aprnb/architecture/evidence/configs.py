"""Reads a Hugging Face config into fields: spellings of single families, old and new keys for RoPE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from aprnb.architecture.evidence.evidence import Evidence
from aprnb.architecture.evidence.field_values import WITHOUT_EFFECT, checked, known_fields, renamed
from aprnb.architecture.families import Family
from aprnb.errors import ArchitectureError, CheckpointError, FileMissing, UnsupportedFamily, UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.fields import FIELDS
from aprnb.formats.json_files import read_object
from aprnb.formats.metadata import same
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import is_folder
from aprnb.printable import first_names, short

MAX_CONFIG_BYTES = 16 << 20
_NULL_SAYS_NONE = frozenset(name for name, field in FIELDS.items() if field.nullable) - {"layer_types"}
"""A null for the kinds of layers states nothing: config classes derive them from other keys."""
_BOTH_WAYS = {"use_bidirectional_attention": True, "is_causal": False}
"""Keys and values with which attention is bidirectional: an encoder under a decoder's name."""


def read_config(source: str | PathLike[str] | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """A Hugging Face config as an object, and its name for messages."""
    if isinstance(source, Mapping):
        return source, "config"
    if not isinstance(source, str | PathLike):
        raise UsageProblem(f"--config is {type(source).__name__}", expected="a path, or the config as an object")
    path = Path(source)
    try:
        if is_folder(path):
            path = safe_path(path, "config.json")
        return read_object(path, MAX_CONFIG_BYTES), path.name
    except FileMissing:
        raise FileMissing(f"no config at {path}", action="give the model's config.json with --config") from None
    except CheckpointError as error:
        raise UsageProblem(error.found, expected=error.expected, action="give the model's config.json") from None


def config_name(checkpoint: Checkpoint) -> str:
    """Where the config in the metadata is: an `.apr` has it under a key, a folder as a file."""
    return "hf_config" if checkpoint.format == "apr" else "config.json"


def from_config(config: Mapping[str, Any], name: str, given_by_user: bool, family: Family) -> Evidence:
    """A config's statements about the fields of the family, including what its class derives from other keys."""
    says: dict[str, tuple[Any, str]] = {}
    rope = _rope(config, name)
    _require_supported(config, rope, name, family)

    def say(field: str, value: Any, key: str) -> None:
        where = f"{name} {key}"
        says[field] = (checked(field, value, where), where)

    for field in family.fields:
        for key in (family.config_keys.get(field, field), field):
            if key in config and (config[key] is not None or field in _NULL_SAYS_NONE):
                say(field, config[key], key)
                break
    switched = {"sliding_window", "layer_types"} & says.keys() or "use_sliding_window" in config
    if switched and family.window_switch and not config.get("use_sliding_window"):
        say("sliding_window", None, "use_sliding_window")
    derived = family.derive(config) if config.get("num_hidden_layers", config.get("n_layer")) is not None else {}
    _say_rope(config, name, rope, derived, family, say, says)
    for field, value in derived.items():
        if field not in says or (field == "sliding_window" and value is None):
            say(field, value, f"(rule of {family.config_name} for {field})")
    kinds, window = says.get("layer_types", (None, ""))[0], says.get("sliding_window", ("unsaid", ""))[0]
    optional = any(rule.field == "layer_types" for rule in family.rules)
    if optional and window is None and kinds is not None and set(kinds) <= {"full_attention"}:
        say("layer_types", None, "layer_types")  # newer configs list it where there is no window
    return Evidence(says, _left_out(config, name, says, family), given_by_user)


def _left_out(
    config: Mapping[str, Any], name: str, says: Mapping[str, Any], family: Family
) -> dict[str, tuple[Any, str]]:
    """The defaults of the family's class for keys that the config does not have, if it is a whole one.

    A whole config names its model type. A null is a value: few classes replace it by their default.
    """
    if not isinstance(config.get("model_type"), str):
        return {}
    return {
        field: (value, f"{name} leaves out {family.config_keys.get(field, field)}")
        for field, value in family.defaults.items()
        if field not in says and not {family.config_keys.get(field, field), field} & config.keys()
    }


def _require_supported(
    config: Mapping[str, Any], rope: Mapping[str, Mapping[str, Any]], name: str, family: Family
) -> None:
    """Raises UnsupportedFamily for keys that change the forward pass and that no field of the family expresses."""
    for key, value in _BOTH_WAYS.items():
        if config.get(key) is value:
            raise UnsupportedFamily(f"{name} {key} is {value}: an encoder (bidirectional)", expected="a decoder")
    stated, kinds = config.get("rope_parameters") or {}, ("full_attention", "sliding_attention")
    if stated and "rope_local_base_freq" in family.fields and not any(kind in stated for kind in kinds):
        raise UnsupportedFamily(f"{name} rope_parameters has {first_names(sorted(map(str, stated)), 3)}",
                                expected=f"{' and '.join(kinds)}: the class uses no others")  # fmt: skip
    local = rope.get("local", {})
    if local.get("rope_type", "default") != "default" or local.get("partial_rotary_factor") not in (None, 1):
        found = {key: value for key, value in local.items() if key != "rope_theta"}
        raise UnsupportedFamily(f"{name} rope_parameters of sliding_attention is {short(found)}",
                                expected="a rope_theta of its own and no scaling")  # fmt: skip
    share = config.get("partial_rotary_factor", rope["full"].get("partial_rotary_factor"))
    if "partial_rotary_factor" not in family.fields and share not in (None, 1):
        raise UnsupportedFamily(f"{name} partial_rotary_factor is {short(share)}",
                                expected=f"none: {family.model_type} rotates whole heads")  # fmt: skip


_ORIGINAL, _GO_BY_ORIGINAL = "original_max_position_embeddings", ("llama3", "yarn", "longrope")


def _rope(config: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """`full` and, for families with two bases, `local` rotation parameters; raises where two objects disagree."""
    merged: dict[str, dict[str, Any]] = {"full": {}}
    for key in ("rope_parameters", "rope_scaling"):
        stated = config.get(key) or {}
        if not isinstance(stated, Mapping):
            raise ArchitectureError(f"{name} {key} is {short(stated)}", expected="an object or null")
        for kind, values in _by_kind(stated).items():
            before = merged.setdefault(kind, {})
            for fact in before.keys() & values.keys():
                _require_one(fact, before[fact], "rope_parameters", values[fact], key, name)
            before |= values
    return merged


def _by_kind(rope: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The objects for each kind of layer, with their type under its newer key."""
    if isinstance(rope.get("full_attention"), Mapping):
        local = rope.get("sliding_attention")
        kinds = {"full": rope["full_attention"], "local": local if isinstance(local, Mapping) else {}}
    else:
        kinds = {"full": rope}
    for values in kinds.values():
        first, second = (renamed(values.get(key)) for key in ("type", "rope_type"))
        if first is not None and second is not None:
            _require_one("the RoPE type", first, "type", second, "rope_type", "rope_scaling")
    return {
        kind: {
            **{key: value for key, value in values.items() if key != "type"},
            "rope_type": renamed(values.get("rope_type", values.get("type", "default"))),
        }
        for kind, values in kinds.items() if values
    }  # fmt: skip


def _say_rope(
    config: Mapping[str, Any], name: str, rope: Mapping[str, dict[str, Any]], derived: Mapping[str, Any],
    family: Family, say: Callable[[str, Any, str], None], says: Mapping[str, Any],
) -> None:  # fmt: skip
    """The fields that the rotation's objects state; raises where a top-level key contradicts them.

    For the earlier context length a class's own default counts as such a key (Phi3Config prefers it).
    """
    for field, key, kind in (
        ("rope_theta", "rope_theta", "full"),
        ("rope_local_base_freq", "rope_theta", "local"),
        ("partial_rotary_factor", "partial_rotary_factor", "full"),
        (_ORIGINAL, _ORIGINAL, "full"),
    ):
        top_level, where = config.get(field), "the top-level key"
        if top_level is None and field == _ORIGINAL:
            top_level, where = derived.get(field), family.config_name
        inside = rope.get(kind, {}).get(key)
        if top_level is not None and inside is not None:
            _require_one(field, top_level, where, inside, "the RoPE parameters", name)
        if field in family.fields and field not in says and inside is not None:
            say(field, inside, f"rope_parameters.{key}")
    if "rope_scaling" in family.fields and ("rope_scaling" in config or "rope_parameters" in config):
        full, original = rope["full"], config.get(_ORIGINAL)
        if original is not None and _ORIGINAL not in family.fields and full.get("rope_type") in _GO_BY_ORIGINAL:
            full = {**full, _ORIGINAL: original}
        say("rope_scaling", full, "rope_scaling" if "rope_scaling" in config else "rope_parameters")


def _require_one(fact: str, first: Any, first_where: str, second: Any, second_where: str, name: str) -> None:
    if not same(first, second):
        raise ArchitectureError(
            f"{fact} is {short(first)} according to {first_where}, {short(second)} according to {second_where}",
            expected="one value", where=name, action="state only the one that the weights were trained with",
        )  # fmt: skip


def unknown_keys(config: Mapping[str, Any], family: Family) -> list[str]:
    """Unknown keys that have a value: each may change the forward pass."""
    known = {*known_fields(), *family.config_keys.values(), "model_type"} | WITHOUT_EFFECT
    return sorted(key for key, value in config.items() if key not in known and value not in (None, False, [], {}))
