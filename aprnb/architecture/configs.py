"""What a Hugging Face config says, in one vocabulary: own spellings of families, RoPE in its old and its new place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.architecture.evidence import Evidence
from aprnb.architecture.families import Family
from aprnb.architecture.fields import NULLABLE, WITHOUT_EFFECT, checked, known_fields, scaling, short
from aprnb.errors import ArchitectureError, CheckpointError, FileMissing, UnsupportedFamily, UsageProblem
from aprnb.formats.json_files import read_object

MAX_CONFIG_BYTES = 16 << 20
_NULL_SAYS_NONE = frozenset(NULLABLE) - {"layer_types"}
"""Of the kinds of layers a null says nothing: config classes then derive them from other keys."""
_BOTH_WAYS = {"use_bidirectional_attention": True, "is_causal": False}
"""Keys and values with which a class attends to what comes later: an encoder under a decoder's name."""


def read_config(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """A Hugging Face config as an object, and its name for messages."""
    if isinstance(source, Mapping):
        return source, "config"
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise FileMissing(f"no config at {path}", action="give the model's config.json with --config")
    try:
        return read_object(path, MAX_CONFIG_BYTES), path.name
    except CheckpointError as error:
        raise UsageProblem(error.found, expected=error.expected, action="give the model's config.json") from None


def from_config(config: Mapping[str, Any], name: str, given_by_person: bool, family: Family) -> Evidence:
    """A config's statements about the fields that the family has; what its class derives from them too."""
    says: dict[str, tuple[Any, str]] = {}
    rope = _rope(config)
    _require_honoured(config, rope, name, family)

    def say(field: str, value: Any, key: str) -> None:
        where = f"{name} {key}"
        says[field] = (checked(field, value, where), where)

    for field in family.fields:
        for key in (family.config_keys.get(field, field), field):
            if key in config and (config[key] is not None or field in _NULL_SAYS_NONE):
                say(field, config[key], key)
                break
    switch = family.window_switch
    if "sliding_window" in says and switch is not None and not config.get("use_sliding_window", switch):
        say("sliding_window", None, "use_sliding_window")
    derived = family.derive(config) if config.get("num_hidden_layers", config.get("n_layer")) is not None else {}
    _say_rope(config, rope, derived, family, say, says)
    for field, value in derived.items():
        if field not in says or (field == "sliding_window" and value is None):
            say(field, value, f"by the rule of {family.config_name} for {field}")
    kinds, window = says.get("layer_types", (None, ""))[0], says.get("sliding_window", ("unsaid", ""))[0]
    optional = any(rule.field == "layer_types" for rule in family.rules)
    if optional and window is None and kinds is not None and set(kinds) <= {"full_attention"}:
        say("layer_types", None, "layer_types")  # spelled out by newer configs where there is no window
    return Evidence(says, given_by_person)


def _require_honoured(
    config: Mapping[str, Any], rope: Mapping[str, Mapping[str, Any]], name: str, family: Family
) -> None:
    """Raises UnsupportedFamily for what changes the forward pass in a way that no field of the family holds."""
    for key, value in _BOTH_WAYS.items():
        if config.get(key) is value:
            raise UnsupportedFamily(f"{name} {key} is {value}: an encoder, attending both ways", expected="a decoder")
    share = config.get("partial_rotary_factor", rope["full"].get("partial_rotary_factor"))
    if "partial_rotary_factor" not in family.fields and share not in (None, 1):
        raise UnsupportedFamily(f"{name} partial_rotary_factor is {short(share)}",
                                expected=f"none: {family.model_type} rotates whole heads")  # fmt: skip


def _rope(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """`full` and, for families with two bases, `local` rotation parameters; raises where two objects disagree."""
    stated = [config[key] for key in ("rope_parameters", "rope_scaling") if config.get(key)]
    if not all(isinstance(rope, Mapping) for rope in stated):
        return {"full": {"rope_scaling": next(rope for rope in stated if not isinstance(rope, Mapping))}}
    new, *old = [_by_kind(rope) for rope in stated] or [{"full": {}}]
    if not old:
        return new
    first, second = scaling(new["full"]) or {"rope_type": None}, scaling(old[0]["full"]) or {"rope_type": None}
    if any(first[key] != second[key] for key in first.keys() & second.keys()):
        raise ArchitectureError(
            f"RoPE is {short(stated[0])} by rope_parameters, {short(stated[1])} by rope_scaling",
            expected="one of the two, or the same in both", action="take out what the weights were not trained with",
        )  # fmt: skip
    return new | {"full": {**old[0]["full"], **new["full"]}}


def _by_kind(rope: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if isinstance(rope.get("full_attention"), Mapping):
        local = rope.get("sliding_attention")
        return {"full": rope["full_attention"], "local": local if isinstance(local, Mapping) else {}}
    return {"full": rope}


_ORIGINAL, _GO_BY_ORIGINAL = "original_max_position_embeddings", ("llama3", "yarn", "longrope")
_ROPE_FIELDS = (
    ("rope_theta", "rope_theta", "full"),
    ("rope_local_base_freq", "rope_theta", "local"),
    ("partial_rotary_factor", "partial_rotary_factor", "full"),
    (_ORIGINAL, _ORIGINAL, "full"),
)
"""Facts of the rotation that configs state beside `rope_parameters`, inside, or both: field, key inside, object."""


def _say_rope(
    config: Mapping[str, Any], rope: Mapping[str, Mapping[str, Any]], derived: Mapping[str, Any],
    family: Family, say: Any, says: Mapping[str, Any],
) -> None:  # fmt: skip
    full, original = rope["full"], config.get(_ORIGINAL)
    if original is None:
        original = derived.get(_ORIGINAL)
    elif _ORIGINAL not in family.fields and full.get("rope_type", full.get("type")) in _GO_BY_ORIGINAL:
        full = {_ORIGINAL: original, **full}
    if "rope_scaling" in family.fields and ("rope_scaling" in config or "rope_parameters" in config):
        old = config.get("rope_scaling")
        stated = old if old is not None and not isinstance(old, Mapping) else scaling(full)
        say("rope_scaling", stated, "rope_scaling" if "rope_scaling" in config else "rope_parameters")
    for field, key, where in _ROPE_FIELDS:
        beside, inside = original if field == _ORIGINAL else config.get(field), rope.get(where, {}).get(key)
        if beside is not None and inside is not None and beside != inside:
            raise ArchitectureError(
                f"{field} is {short(beside)}, and {short(inside)} inside the RoPE parameters", expected="one value",
                action="take out the one that the weights were not trained with",
            )  # fmt: skip
        if field in family.fields and field not in says and inside is not None:
            say(field, inside, f"rope_parameters.{key}")


def unknown_keys(config: Mapping[str, Any], family: Family) -> list[str]:
    """Keys with a value that nobody here knows: each may change the forward pass."""
    known = {*known_fields(), *family.config_keys.values(), "model_type"} | WITHOUT_EFFECT
    return sorted(key for key, value in config.items() if key not in known and value not in (None, False, [], {}))
