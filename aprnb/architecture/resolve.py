"""Settles the architecture of a checkpoint once, field by field, each with its source; refuses what nothing settles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aprnb.architecture.architecture import Architecture
from aprnb.architecture.configs import from_config, read_config, unknown_keys
from aprnb.architecture.evidence import Evidence, from_metadata, from_overrides, from_shapes
from aprnb.architecture.families import FAMILIES, Family, family_named
from aprnb.architecture.families.family import STANDARD
from aprnb.architecture.fields import MAX_BLOCKS, short
from aprnb.architecture.foreign import refuse_adapters, what_it_is
from aprnb.architecture.gguf_keys import from_gguf
from aprnb.architecture.head import find_head
from aprnb.architecture.names import families_with, foreign_to
from aprnb.architecture.orientation import is_training_state, odd_layout, oriented, training_state
from aprnb.errors import ArchitectureError, CheckpointError, UnsupportedFamily, UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.contents import shown_name
from aprnb.formats.sidecar_files import find_sidecar

_DIMENSIONS = ("hidden_size", "num_hidden_layers", "head_dim", "intermediate_size", "vocab_size")
MAX_CONFIG_CHARACTERS = 1 << 20
_NOT_A_NAME = ("", "auto", "unknown")
_ORDER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "num_key_value_heads")


def resolve(
    checkpoint: Checkpoint,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Architecture:
    """The architecture of `checkpoint`; `config` and `overrides` are a person's word for what the file leaves open.

    Raises ArchitectureError that names every field which is contradicted or unsettled, with the way out.
    """
    given = [from_overrides(overrides or {})]
    read = read_config(config) if config is not None else None
    family, notes = _settle_family(checkpoint, given[0], read)
    if read is not None:
        given.append(from_config(*read, given_by_person=True, family=family))
    tensors = {name: entry for name, entry in oriented(checkpoint).items() if not is_training_state(name)}
    proven, rows = from_shapes(tensors, family)
    sibling, sibling_notes = _sibling_config(checkpoint, proven, family) if read is None else ([], [])
    carried, strange = _carried(checkpoint, family)
    spoken, factors = from_gguf(checkpoint, family.model_type)
    typed, doubts = from_metadata(checkpoint.metadata, family)
    settlement = _Settlement(family, [proven, *given, *sibling, *carried, spoken, typed])
    settlement.warnings += [*notes, *sibling_notes, *doubts, *strange, *odd_layout(checkpoint)]
    settlement.settle_head(checkpoint)
    settlement.superseded += (*factors, *training_state(checkpoint))
    settlement.settle_all(rows)
    _bound_size(settlement.values, checkpoint.path)
    _require_sense(settlement.values, checkpoint.path)
    return settlement.architecture(checkpoint.path)


def _carried(checkpoint: Checkpoint, family: Family) -> tuple[list[Evidence], list[str]]:
    """The configs inside the metadata: the source's own, and the text that a trainer left."""
    found, strange = [], []
    inner = checkpoint.metadata.get("hf_config")
    if isinstance(inner, Mapping):
        name = "hf_config" if checkpoint.format == "apr" else "config.json"
        found.append(from_config(inner, name, False, family))
        strange = _unknown(name, unknown_keys(inner, family))
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
    return found, strange


def _unknown(name: str, keys: list[str]) -> list[str]:
    """A warning for each of the first ten keys that are not known, and one that counts the rest."""
    warnings = [
        f"{name} {shown_name(key)} is not known: if it changes the forward pass, it is lost" for key in keys[:10]
    ]
    rest = len(keys) - 10
    return [*warnings, f"{name} has {rest:,} more keys that are not known"] if rest > 0 else warnings


def _bound_size(values: Mapping[str, Any], path: Path) -> None:
    """Raises where a few bytes claim so many layers and experts that their list alone would fill the memory."""
    blocks = values.get("num_hidden_layers", 1) * values.get("num_experts", 1)
    if blocks > MAX_BLOCKS:
        raise ArchitectureError(
            f"num_hidden_layers × num_experts is {blocks:,}", expected=f"at most {MAX_BLOCKS:,}", where=str(path)
        )


def _require_sense(values: Mapping[str, Any], path: Path) -> None:
    """Raises for fields that are each well formed and cannot be true together."""
    experts, chosen = values.get("num_experts"), values.get("num_experts_per_tok")
    if experts is not None and chosen is not None and chosen > experts:
        raise ArchitectureError(f"num_experts_per_tok is {chosen} of {experts} experts", where=str(path))
    kinds, layers = values.get("layer_types"), values.get("num_hidden_layers")
    if kinds is not None and layers is not None:
        strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
        if strange or len(kinds) != layers:
            found = f"layer_types has {short(strange[0])}" if strange else f"layer_types lists {len(kinds)} layers"
            expected = f"full_attention or sliding_attention for each of {layers} layers"
            raise ArchitectureError(found, expected=expected, where=str(path))
        if "sliding_window" in values and values["sliding_window"] is None:
            raise ArchitectureError("layer_types tells windowed layers from others, and sliding_window is null",
                                    where=str(path), action=_way_out(["sliding_window"], False))  # fmt: skip
    rotated = values.get("no_rope_layers")
    if rotated is not None and layers is not None and len(rotated) != layers:
        raise ArchitectureError(
            f"no_rope_layers lists {len(rotated)} layers", expected=f"each of {layers} layers", where=str(path)
        )


class _Settlement:
    """Evidence in, settled fields out; keeps what was contradicted, assumed and left open."""

    def __init__(self, family: Family, evidence: list[Evidence]) -> None:
        self.family, self.evidence = family, evidence
        self.values: dict[str, Any] = {"model_type": family.model_type}
        self.sources: dict[str, str] = {}
        self.assumptions: list[str] = []
        self.warnings: list[str] = []
        self.conflicts: list[str] = []
        self.open: list[str] = []
        self.head_default: tuple[bool, str] | None = None
        self.superseded: tuple[str, ...] = ()

    def settle_head(self, checkpoint: Checkpoint) -> None:
        head = find_head(checkpoint)
        self.warnings += head.warnings
        self.superseded = head.ignored
        if head.tied is None:
            self.head_default = (head.default, head.source)
        else:
            self.evidence[0].says["tie_word_embeddings"] = (head.tied, head.source)

    def settle_all(self, rows: Mapping[str, int]) -> None:
        self._settle("model_type")
        fields = self.family.fields
        ordered = [name for name in _ORDER if name in fields]
        for name in (*ordered, *(name for name in fields if name not in ordered)):
            self._prove_from_rows(name, rows)
            self._settle(name)

    def _prove_from_rows(self, name: str, rows: Mapping[str, int]) -> None:
        """Projections have heads × head_dim rows: each of the three proves the third."""
        proven = self.evidence[0].says
        q_rows, k_rows = rows.get("q_proj", 0), rows.get("k_proj", 0)
        if name == "num_attention_heads":
            head_dim = self._stated("head_dim")
            if q_rows and head_dim and q_rows % head_dim == 0 and ("head_dim" in proven or not self._stated(name)):
                proven[name] = (q_rows // head_dim, f"{q_rows} rows of q_proj / head_dim {head_dim}")
        heads = self.values.get("num_attention_heads")
        if name == "head_dim" and name not in proven and q_rows and heads and q_rows % heads == 0:
            proven[name] = (q_rows // heads, f"{q_rows} rows of q_proj / {heads} heads")
        fused, groups = rows.get("qkv_proj", 0), (heads or 0) + 2 * (self._stated("num_key_value_heads") or 0)
        if name == "head_dim" and name not in proven and fused and groups > (heads or 0) and fused % groups == 0:
            proven[name] = (fused // groups, f"{fused} rows of qkv_proj / {groups} heads of queries, keys and values")
        head_dim = self.values.get("head_dim")
        if name == "num_key_value_heads" and k_rows and head_dim and k_rows % head_dim == 0:
            proven[name] = (k_rows // head_dim, f"{k_rows} rows of k_proj / head_dim {head_dim}")

    def _stated(self, name: str) -> Any:
        return next((evidence.says[name][0] for evidence in self.evidence if name in evidence.says), None)

    def _settle(self, name: str) -> None:
        statements = [(*source.says[name], source.given_by_person) for source in self.evidence if name in source.says]
        if not statements:
            self._settle_by_rule(name)
            return
        value, where, backed = statements[0]
        for other, other_where, by_person in statements[1:]:
            if other == value:
                backed = backed or by_person
                continue
            text = f"{name} is {value} by {where}, {other} by {other_where}"
            (self.warnings if backed else self.conflicts).append(text)
        self.values[name], self.sources[name] = value, where

    def _settle_by_rule(self, name: str) -> None:
        if name == "tie_word_embeddings" and self.head_default:
            self.values[name], self.sources[name] = self.head_default
            return
        rule = next((r for r in self.family.rules if r.field == name and r.applies(self.values)), None)
        if rule is None:
            self.open.append(name)
            return
        certain = rule.certainty == "certain"
        try:
            value = rule.answer(self.values)
        except KeyError:  # it follows from a field that is open itself
            self.open.append(name)
            return
        self.values[name] = value
        self.sources[name] = f"rule of the {self.family.model_type} family{'' if certain else ' (assumed)'}"
        if not certain:
            self.assumptions.append(f"{name} = {value}: {rule.reason}")

    def architecture(self, path: Path) -> Architecture:
        extra = [name for name in self.family.fields if name not in STANDARD.split()]
        if self.conflicts or self.open:
            missing = f"{' and '.join(self.open)} unsettled: nothing in the file says" if self.open else ""
            found = "; ".join([*self.conflicts, missing] if missing else self.conflicts)
            raise ArchitectureError(found, where=str(path), action=_way_out(self.open, bool(self.conflicts)))
        standard = dict.fromkeys(STANDARD.split())
        return Architecture(
            **{**standard, **{name: value for name, value in self.values.items() if name not in extra}},
            extra=MappingProxyType({name: self.values[name] for name in extra}),
            sources=MappingProxyType(self.sources),
            assumptions=tuple(self.assumptions),
            warnings=tuple(self.warnings),
            superseded=self.superseded,
        )


def _way_out(unsettled: list[str], contradicted: bool) -> str:
    settings = " ".join(f"--set {name}=VALUE" for name in unsettled)
    if unsettled and not contradicted:
        return f"give the model's own config with --config config.json, or {settings}"
    return "give the model's own config with --config config.json, if it fits the tensors; else the file is wrong"


def _settle_family(
    checkpoint: Checkpoint, typed: Evidence, read: tuple[Mapping[str, Any], str] | None
) -> tuple[Family, list[str]]:
    """The family by name, held against the tensors; raises where the two disagree or nobody knows the name."""
    refuse_adapters(checkpoint)
    stated = typed.says.get("model_type")
    if stated is None and read is not None and isinstance(read[0].get("model_type"), str):
        stated = (read[0]["model_type"], f"{read[1]} model_type")
    claims = _claims(checkpoint.metadata)
    name, where = stated or (claims[0] if claims else ("", ""))
    if not name:
        kind = checkpoint.metadata.get("model_type") or "none"
        found = f"no transformer is named in the metadata (model_type {short(kind)})"
        raise _refusal(found, checkpoint.path, "give the model's own config with --config config.json")
    family = family_named(name)
    if family is None:
        raise _refusal(f"family {short(name)} ({where}) is not supported{what_it_is(name)}", checkpoint.path)
    notes = []
    for other, other_where in claims:
        if family_named(other) is not family:
            text = f"model_type is {family.model_type} by {where}, {other[:60]} by {other_where}"
            if not stated:
                raise ArchitectureError(text, where=str(checkpoint.path), action=_way_out([], True))
            notes.append(text)
    _hold_against_names(checkpoint, family, where)
    typed.says["model_type"] = (family.model_type, where)
    return family, notes


def _hold_against_names(checkpoint: Checkpoint, family: Family, where: str) -> None:
    """Raises where the tensors' names are those of other families, or of a kind of model that is none of ours."""
    names = [name for name in checkpoint.tensors if not is_training_state(name)]
    possible = families_with(names)
    strange = foreign_to(names, family)
    kind = next((kind for name in strange if (kind := what_it_is(name))), None)
    if kind:
        raise _refusal(f"tensor {strange[0]} belongs to another kind of model{kind}", checkpoint.path)
    if possible and family.model_type not in possible:
        raise ArchitectureError(
            f"model_type is {family.model_type} by {where}, "
            f"but tensor {strange[0]} belongs to {' or '.join(sorted(possible))}",
            where=str(checkpoint.path),
            action=_way_out([], True),
        )


def _claims(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every name of a family in the metadata, best first; `model_type` counts only where nothing better speaks."""
    keys = ("hf_model_type", "architecture", "hf_architecture", "model.architecture")
    inner = metadata.get("hf_config")
    claims = (
        [(inner["model_type"], "hf_config model_type")]
        if isinstance(inner, Mapping) and inner.get("model_type")
        else []
    )
    claims += [(metadata[key], f"metadata {key}") for key in keys if metadata.get(key)]
    if not claims and family_named(str(metadata.get("model_type", ""))):
        claims = [(metadata["model_type"], "metadata model_type")]
    return [(str(name), where) for name, where in claims if str(name).lower() not in _NOT_A_NAME]


def _refusal(found: str, path: Path, action: str = "inspection still shows its tensors") -> UnsupportedFamily:
    return UnsupportedFamily(found, expected=f"one of {', '.join(FAMILIES)}", where=str(path), action=action)


def _sibling_config(checkpoint: Checkpoint, proven: Evidence, family: Family) -> tuple[list[Evidence], list[str]]:
    """A config beside the file, used only if every dimension it states fits the tensors.

    A Hugging Face folder's own config is part of its metadata; nothing beside the folder belongs to it.
    """
    path = checkpoint.path
    if checkpoint.format in ("huggingface", "safetensors"):
        return [], []
    for name in (path.with_suffix(".config.json").name, "config.json"):
        try:
            candidate = find_sidecar(path.parent, name)
            if candidate is None:
                continue
            config, _ = read_config(candidate)
            kind = config.get("model_type")
            if isinstance(kind, str) and family_named(kind) is not family:
                return [], [f"{name} beside the file is not used, it is of another model: model_type {kind}"]
            evidence = from_config(config, name, False, family)
        except UnsupportedFamily:
            raise
        except (ArchitectureError, CheckpointError, UsageProblem) as error:
            return [], [f"{name} beside the file is not used: {error.found}"]
        misfit = [
            f"{field} {evidence.says[field][0]} (tensors: {proven.says[field][0]})"
            for field in _DIMENSIONS
            if field in evidence.says and field in proven.says and evidence.says[field][0] != proven.says[field][0]
        ]
        if misfit:
            return [], [f"{name} beside the file is not used, it is of another model: {', '.join(misfit)}"]
        return [evidence], []
    return [], []
