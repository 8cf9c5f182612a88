"""The architecture of a causal language model, every field with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from aprnb.architecture.families import FAMILIES, Family, TensorRule


@dataclass(frozen=True)
class Architecture:
    """Fields are named as in Hugging Face configs; `sources[field]` tells who settled each.

    `rope_scaling` and `sliding_window` are None where there is none. `assumptions` lists fields that the file leaves
    open and every published checkpoint of the family agrees on.
    """

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    sliding_window: int | None
    rope_scaling: Mapping[str, Any] | None
    hidden_act: str
    sources: Mapping[str, str] = field(repr=False, compare=False, default_factory=dict)
    assumptions: tuple[str, ...] = field(repr=False, compare=False, default=())
    warnings: tuple[str, ...] = field(repr=False, compare=False, default=())
    superseded: tuple[str, ...] = field(repr=False, compare=False, default=())
    """Tensors of the file that are no weights: a copy of the embedding beside the true head, RoPE factors."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    def fields(self) -> dict[str, Any]:
        """Field → value, without sources."""
        return {name: getattr(self, name) for name in FIELDS}

    def to_json(self) -> dict[str, dict[str, Any]]:
        return {name: {"value": value, "source": self.sources.get(name, "")} for name, value in self.fields().items()}


FIELDS: tuple[str, ...] = tuple(name for name, entry in Architecture.__dataclass_fields__.items() if entry.compare)


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """A tensor that the architecture calls for, under its Hugging Face name."""

    name: str
    rule: TensorRule
    layer: int | None
    shape: tuple[int, ...]
    arithmetic: str
    """`[num_attention_heads*head_dim, hidden_size] = [32*128, 4096]`"""


def expected_tensors(architecture: Architecture) -> dict[str, ExpectedTensor]:
    """Name → tensor for the whole model, in the family table's order; a tied head is not among them."""
    expected = {}
    for rule in architecture.family.tensors:
        if rule.when and not getattr(architecture, rule.when):
            continue
        if rule.role == "head" and architecture.tie_word_embeddings:
            continue
        for layer in range(architecture.num_hidden_layers) if rule.per_layer else (None,):
            name = rule.name.format(layer=layer)
            expected[name] = ExpectedTensor(name, rule, layer, *_shape(rule, architecture))
    return expected


def _shape(rule: TensorRule, architecture: Architecture) -> tuple[tuple[int, ...], str]:
    factors = [[getattr(architecture, name) for name in dimension.split("*")] for dimension in rule.shape]
    symbolic = ", ".join(rule.shape)
    numbers = ", ".join("*".join(map(str, dimension)) for dimension in factors)
    return tuple(prod(dimension) for dimension in factors), f"[{symbolic}] = [{numbers}]"


def parameter_count(architecture: Architecture) -> int:
    """Unique parameters: the sum over every tensor of the model, a tied head counted once."""
    return sum(prod(tensor.shape) for tensor in expected_tensors(architecture).values())
