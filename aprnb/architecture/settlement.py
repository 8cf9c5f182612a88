"""Settles the fields of a family from evidence, in the order of precedence of the sources."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any

from aprnb.architecture.architecture import Architecture
from aprnb.architecture.evidence.evidence import Evidence
from aprnb.architecture.families import Family
from aprnb.architecture.head import find_head
from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint
from aprnb.formats.fields import STANDARD
from aprnb.formats.metadata import same

GIVE_CONFIG = "give the model's own config with --config config.json"
_ORDER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "num_key_value_heads")


class Settlement:
    """Settles fields one by one from evidence, the most trusted first; collects contradictions and open fields."""

    def __init__(self, family: Family, named_by: str, proven: Evidence, others: Sequence[Evidence]) -> None:
        self.family = family
        self._proven = dict(proven.says)  # grows: a settled field may prove another one
        self._others = others
        self.values: dict[str, Any] = {"model_type": family.model_type}
        self.sources: dict[str, str] = {"model_type": named_by}
        self.assumptions: list[str] = []
        self.warnings: list[str] = []
        self.conflicts: list[str] = []
        self.contradicted: dict[str, Any] = {}
        self.open: list[str] = []
        self.head_default: tuple[bool, str] | None = None
        self.superseded: tuple[str, ...] = ()
        self._own_head = False

    def settle_head(self, checkpoint: Checkpoint) -> None:
        head = find_head(checkpoint)
        self._own_head = head.own
        self.warnings += head.warnings
        self.superseded = head.ignored
        if head.tied is None:
            self.head_default = (head.default, head.source)
        else:
            self._proven["tie_word_embeddings"] = (head.tied, head.source)

    def settle_all(self, rows: Mapping[str, int]) -> None:
        fields = self.family.fields
        ordered = [name for name in _ORDER if name in fields]
        for name in (*ordered, *(name for name in fields if name not in ordered)):
            self._prove_from_rows(name, rows)
            self._settle(name)

    def _prove_from_rows(self, name: str, rows: Mapping[str, int]) -> None:
        """Projections have heads × head_dim rows: each of the three proves the third."""
        proven = self._proven
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

    def _statements(self, name: str) -> list[tuple[Any, str, bool]]:
        """The field's values, the most trusted first: each with its source and whether the user gave it."""
        proven = [(*self._proven[name], False)] if name in self._proven else []
        stated = [(*source.says[name], source.given_by_user) for source in self._others if name in source.says]
        if name == "tie_word_embeddings" and self._own_head and stated and stated[0][1].startswith("--set"):
            return [stated[0], *proven, *stated[1:]]  # a model may be told to leave its own head out
        return proven + stated

    def _stated(self, name: str) -> Any:
        return next((value for value, _, _ in self._statements(name)), None)

    def _settle(self, name: str) -> None:
        statements = self._statements(name)
        if not statements:
            self._settle_by_rule(name)
            return
        value, where, backed = statements[0]
        for other, other_where, by_user in statements[1:]:
            if same(other, value):
                backed = backed or by_user
                continue
            text = f"{name} is {_said(value, where)}, {_said(other, other_where)}"
            # An own head is read as such, whatever says that it is tied: so does `transformers`.
            harmless = backed or (name == "tie_word_embeddings" and self._own_head)
            (self.warnings if harmless else self.conflicts).append(text)
            if not harmless:
                self.contradicted[name] = value
        self.values[name], self.sources[name] = value, where

    def _settle_by_rule(self, name: str) -> None:
        rule = next((r for r in self.family.rules if r.field == name and r.applies(self.values)), None)
        certain = rule is not None and rule.certainty == "certain"
        if not certain and (left := next((s.leaves_out[name] for s in self._others if name in s.leaves_out), None)):
            self.values[name], why = left
            self.sources[name] = f"class default ({self.family.config_name})"
            self.assumptions.append(f"{name} = {self.values[name]}: {why}, the default of {self.family.config_name}")
            return
        if name == "tie_word_embeddings" and self.head_default:
            self.values[name], self.sources[name] = self.head_default
            return
        if rule is None:
            self.open.append(name)
            return
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
        extra = [name for name in self.family.fields if name not in STANDARD]
        if self.conflicts or self.open:
            missing = f"the file does not state {', '.join(self.open)}" if self.open else ""
            found = "; ".join([*self.conflicts, missing] if missing else self.conflicts)
            raise ArchitectureError(found, where=str(path), action=advice(self.open, self.contradicted))
        standard = dict.fromkeys(STANDARD)
        return Architecture(
            **{**standard, **{name: value for name, value in self.values.items() if name not in extra}},
            extra=MappingProxyType({name: self.values[name] for name in extra}),
            sources=MappingProxyType(self.sources),
            assumptions=tuple(self.assumptions),
            warnings=tuple(self.warnings),
            superseded=self.superseded,
        )


def _said(value: Any, where: str) -> str:
    return f"{value}, {where}" if where.startswith("derived from") else f"{value} according to {where}"


def advice(unsettled: Iterable[str], contradicted: Mapping[str, Any]) -> str:
    """The action for fields that are undetermined, and for contradicted ones with their most trusted values."""
    settings = " ".join(f"--set {name}=VALUE" for name in unsettled)
    if not contradicted:
        return ", or ".join(filter(None, (GIVE_CONFIG, settings)))
    first = " ".join(f"--set {quote(f'{name}={json.dumps(value)}')}" for name, value in contradicted.items())
    return f"if the first is right: {' '.join(filter(None, (first, settings)))}; otherwise the file is wrong"
