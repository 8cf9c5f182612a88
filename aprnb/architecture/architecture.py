"""The architecture of a causal language model, each field with its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from typing import Any

from aprnb.architecture.families import FAMILIES, Family, TensorRule
from aprnb.formats.fields import STANDARD

_RUNS_SHOWN = 4


@dataclass(frozen=True)
class Architecture:
    """The dimensions and options of a model, each with its source; fields are named as in Hugging Face configs.

    Attributes:
        model_type: the family, such as "qwen3".
        hidden_size: width of the embedding and of each layer's input and output.
        num_hidden_layers: decoder layers.
        num_attention_heads: query heads of a layer.
        num_key_value_heads: key and value heads of a layer; equal to the query heads, or a divisor of their number.
        head_dim: width of one head.
        intermediate_size: width inside the MLP.
        vocab_size: rows of the embedding.
        max_position_embeddings: longest sequence in tokens.
        rope_theta: base of the rotary embedding's frequencies; None for learned positions.
        rms_norm_eps: epsilon of the norms, LayerNorm's too.
        tie_word_embeddings: the head is the embedding matrix.
        attention_bias: the attention's projections have biases.
        mlp_bias: the MLP's projections have biases.
        sliding_window: attended positions in tokens; None for all.
        rope_scaling: the object of that name in Hugging Face configs; None without scaling.
        hidden_act: activation function of the MLP.
        extra: fields that only some families have (soft caps, multipliers, experts).
        sources: field → where its value comes from.
        assumptions: fields that the file leaves open and that are equal in all published checkpoints of the family.
        warnings: statements of the file that were overruled or ignored.
        superseded: tensors that are not weights, such as RoPE factors or a copy of the embedding next to the head.

    Example:
        >>> architecture = aprnb.open("pocket-qwen3.apr").architecture
        >>> architecture.num_hidden_layers, architecture.sources["num_hidden_layers"]
        (3, 'layers in the tensor index')
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
    rope_theta: float | None
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    sliding_window: int | None
    rope_scaling: Mapping[str, Any] | None
    hidden_act: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(repr=False, compare=False, default_factory=dict)
    assumptions: tuple[str, ...] = field(repr=False, compare=False, default=())
    warnings: tuple[str, ...] = field(repr=False, compare=False, default=())
    superseded: tuple[str, ...] = field(repr=False, compare=False, default=())

    @property
    def family(self) -> Family:
        """The family's tensors, rules and names."""
        return FAMILIES[self.model_type]

    def __getitem__(self, name: str) -> Any:
        """A field's value, standard or extra; also the rows of a fused q, k and v (`qkv_rows`)."""
        if name == "qkv_rows":
            return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        return getattr(self, name) if name in STANDARD else self.extra.get(name)

    @property
    def attention(self) -> str:
        """The exact implementation in `transformers`, which is `eager` for capped logits, else the family's."""
        return "eager" if self["attn_logit_softcapping"] is not None else self.family.attention

    @property
    def attention_reason(self) -> str:
        """Why this implementation is exact for the model."""
        if self.attention == "eager":
            return "the model caps its attention's logits, which the others do not"
        return "exact for this model, with a mask between packed rows"

    @property
    def left_out(self) -> tuple[str, ...]:
        """The assumptions about keys that a config leaves out, as warnings: a lost key reads like one left out.

        Unlike what all published checkpoints of a family share, another value is as likely. Absent without a value
        (no scaling, no window) is the ordinary case.
        """
        defaults = {f"{name} = {self[name]}: " for name, where in self.sources.items()
                    if where.startswith("class default") and self[name] is not None}  # fmt: skip
        return tuple(f"assumed {text}" for text in self.assumptions if text.startswith(tuple(defaults)))

    def fields(self) -> dict[str, Any]:
        """Field → value for the fields of the family, without sources."""
        return {"model_type": self.model_type, **{name: self[name] for name in self.family.fields}}

    def as_config(self) -> dict[str, Any]:
        """The fields as a Hugging Face config, with the class's name and the switch for its window."""
        config = {**self.fields(), "architectures": [self.family.class_name]}
        if self.family.window_switch:
            config["use_sliding_window"] = self.sliding_window is not None
        return config

    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """Name, value and source of each field, as text; long lists are shortened."""
        return field_rows({name: (value, self.sources.get(name, "")) for name, value in self.fields().items()})

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Field → its value and source."""
        return {name: {"value": value, "source": self.sources.get(name, "")} for name, value in self.fields().items()}


def field_rows(fields: Mapping[str, tuple[Any, str]]) -> tuple[tuple[str, str, str], ...]:
    """Name, value and source of each field (name → value and source) as text."""
    return tuple((name, _shown(value), source) for name, (value, source) in fields.items())


def _shown(value: Any) -> str:
    """Equal neighbours of a list once with their number, and its beginning; of lists inside an object the length."""
    if isinstance(value, Mapping):
        return str({k: f"{len(v)} values" if isinstance(v, list | tuple) else v for k, v in value.items()})
    if not isinstance(value, list | tuple):
        return str(value)
    runs = [(len(list(run)), one) for one, run in groupby(value)]
    texts = [str(one) if count == 1 else f"{count} × {one}" for count, one in runs]
    return (
        ", ".join(texts) if len(texts) <= _RUNS_SHOWN else f"{', '.join(texts[:_RUNS_SHOWN])}, … ({len(value)} in all)"
    )


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """A tensor that the architecture requires, under its Hugging Face name."""

    name: str
    rule: TensorRule
    layer: int | None
    expert: int | None
    shape: tuple[int, ...]
    arithmetic: str
    """`[num_attention_heads*head_dim, hidden_size] = [32*128, 4096]`"""


def expected_tensors(architecture: Architecture) -> dict[str, ExpectedTensor]:
    """Name → tensor for the whole model, in the order of the family's table, without a tied head."""
    expected = {}
    for rule in architecture.family.tensors:
        if rule.when and not architecture[rule.when]:
            continue
        if rule.role == "head" and architecture.tie_word_embeddings:
            continue
        shape, arithmetic = _shape(rule, architecture)
        for layer in _layers(rule, architecture):
            for expert in range(architecture["num_experts"]) if rule.per_expert else (None,):
                name = rule.name.format(layer=layer, expert=expert)
                expected[name] = ExpectedTensor(name, rule, layer, expert, shape, arithmetic)
    return expected


def _layers(rule: TensorRule, architecture: Architecture) -> Iterable[int | None]:
    if not rule.per_layer:
        return (None,)
    layers = range(architecture.num_hidden_layers)
    return layers if rule.layers is None else [layer for layer in layers if rule.layers(architecture, layer)]


def _shape(rule: TensorRule, architecture: Architecture) -> tuple[tuple[int, ...], str]:
    def value(name: str) -> int:
        return int(name) if name.isdigit() else int(architecture[name])

    factors = [[value(name) for name in dimension.split("*")] for dimension in rule.shape]
    symbolic = ", ".join(rule.shape)
    numbers = ", ".join("*".join(map(str, dimension)) for dimension in factors)
    return tuple(prod(dimension) for dimension in factors), f"[{symbolic}] = [{numbers}]"


def parameter_count(architecture: Architecture) -> int:
    """Unique parameters: the sum over every tensor of the model, a tied head counted once."""
    return sum(prod(tensor.shape) for tensor in expected_tensors(architecture).values())
