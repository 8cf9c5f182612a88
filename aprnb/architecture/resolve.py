"""Settles the architecture of a checkpoint once, field by field, each with its source; refuses what nothing settles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aprnb.architecture.architecture import FIELDS, Architecture
from aprnb.architecture.evidence import Evidence, from_config, from_metadata, from_overrides, from_shapes, read_config
from aprnb.architecture.families import FAMILIES, Family, family_named
from aprnb.architecture.gguf_keys import from_gguf
from aprnb.architecture.head import find_head
from aprnb.architecture.names import families_with, foreign_to
from aprnb.errors import ArchitectureError, UnsupportedFamily, UsageProblem
from aprnb.formats import Checkpoint

_DIMENSIONS = ("hidden_size", "num_hidden_layers", "head_dim", "intermediate_size", "vocab_size")
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
    if config is not None:
        given.append(from_config(*read_config(config), given_by_person=True))
    family, notes = _settle_family(checkpoint, given)
    proven, rows = from_shapes(checkpoint.tensors, family)
    sibling, sibling_notes = _sibling_config(checkpoint.path, proven) if config is None else ([], [])
    inner = checkpoint.metadata.get("hf_config")
    carried = [from_config(inner, "hf_config", False)] if isinstance(inner, Mapping) else []
    spoken, factors = from_gguf(checkpoint, family.model_type)
    typed, doubts = from_metadata(checkpoint.metadata)
    settlement = _Settlement(family, [proven, *given, *sibling, *carried, spoken, typed])
    settlement.warnings += [*notes, *sibling_notes, *doubts]
    settlement.settle_head(checkpoint)
    settlement.superseded += factors
    settlement.settle_all(rows)
    return settlement.architecture(checkpoint.path)


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
        for name in (*_ORDER, *(field for field in FIELDS if field not in _ORDER and field != "model_type")):
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
        self.values[name] = rule.value
        self.sources[name] = f"rule of the {self.family.model_type} family{'' if certain else ' (assumed)'}"
        if not certain:
            self.assumptions.append(f"{name} = {rule.value}: {rule.reason}")

    def architecture(self, path: Path) -> Architecture:
        if self.conflicts or self.open:
            missing = f"{' and '.join(self.open)} unsettled: nothing in the file says" if self.open else ""
            found = "; ".join([*self.conflicts, missing] if missing else self.conflicts)
            raise ArchitectureError(found, where=str(path), action=_way_out(self.open, bool(self.conflicts)))
        return Architecture(
            **self.values,
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


def _settle_family(checkpoint: Checkpoint, given: list[Evidence]) -> tuple[Family, list[str]]:
    """The family by name, held against the tensors; raises where the two disagree or nobody knows the name."""
    stated = next((source.says["model_type"] for source in given if "model_type" in source.says), None)
    claims = _claims(checkpoint.metadata)
    name, where = stated or (claims[0] if claims else ("", ""))
    if not name:
        kind = checkpoint.metadata.get("model_type") or "none"
        raise _refusal(f"no transformer is named in the metadata (model_type {kind!r})", checkpoint.path)
    family = family_named(name)
    if family is None:
        raise _refusal(f"family {name!r} ({where}) is not supported", checkpoint.path)
    notes = []
    for other, other_where in claims:
        if family_named(other) is not family:
            text = f"model_type is {family.model_type} by {where}, {other} by {other_where}"
            if not stated:
                raise ArchitectureError(text, where=str(checkpoint.path), action=_way_out([], True))
            notes.append(text)
    possible = families_with(checkpoint.tensors)
    if possible and family.model_type not in possible:
        strange = foreign_to(checkpoint.tensors, family)[0]
        raise ArchitectureError(
            f"model_type is {family.model_type} by {where}, "
            f"but tensor {strange} belongs to {' or '.join(sorted(possible))}",
            where=str(checkpoint.path),
            action=_way_out([], True),
        )
    if stated:
        given[0].says["model_type"] = (family.model_type, where)
        for source in given[1:]:
            source.says.pop("model_type", None)
    else:
        given.append(Evidence({"model_type": (family.model_type, where)}))
    return family, notes


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


def _refusal(found: str, path: Path) -> UnsupportedFamily:
    return UnsupportedFamily(
        found, expected=f"one of {', '.join(FAMILIES)}", where=str(path), action="inspection still shows its tensors"
    )


def _sibling_config(path: Path, proven: Evidence) -> tuple[list[Evidence], list[str]]:
    """A config beside the file, used only if every dimension it states fits the tensors."""
    for candidate in (path.with_suffix(".config.json"), path.parent / "config.json"):
        if not candidate.is_file():
            continue
        try:
            evidence = from_config(*read_config(candidate), given_by_person=False)
        except (ArchitectureError, UsageProblem) as error:
            return [], [f"{candidate.name} beside the file is not used: {error.found}"]
        misfit = [
            f"{name} {evidence.says[name][0]} (tensors: {proven.says[name][0]})"
            for name in _DIMENSIONS
            if name in evidence.says and name in proven.says and evidence.says[name][0] != proven.says[name][0]
        ]
        if misfit:
            return [], [f"{candidate.name} beside the file is not used, it is of another model: {', '.join(misfit)}"]
        return [evidence], []
    return [], []
