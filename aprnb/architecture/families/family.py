"""A model family: its names, its tensors with symbolic shapes, rules for unstated fields, llama.cpp's graph of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aprnb.formats.fields import STANDARD

Role = Literal["embedding", "norm", "linear", "router", "expert", "conv1d", "bias", "head"]


def fields(without: str = "", more: str = "") -> tuple[str, ...]:
    """The standard fields, fewer or more of them."""
    return tuple(name for name in STANDARD if name not in without.split()) + tuple(more.split())


@dataclass(frozen=True, slots=True)
class TensorRule:
    """A tensor of the family; `{layer}` in a name is the layer's number, `{expert}` the expert's.

    `shape` holds one symbolic dimension per axis: a field name, or several joined by `*` (or a number). `when` names
    the boolean field that must be true for the tensor to exist, `layers` says in which layers it does. `rotated_heads`
    names the head count of a projection whose rows are interleaved in GGUF files of a permuting family.
    Files may hold the tensor under one of `other` names; as the `parts` that make it, side by side along the last axis;
    or as rows of the tensor `fused`, which the tensors of that name share in the table's order.
    """

    name: str
    gguf: str
    shape: tuple[str, ...]
    role: Role
    when: str | None = None
    rotated_heads: str | None = None
    layers: Callable[[Any, int], bool] | None = None
    other: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    fused: str | None = None

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.name

    @property
    def per_expert(self) -> bool:
        """Whether there is one for each expert; GGUF files stack them in one tensor of three dimensions."""
        return "{expert}" in self.name


@dataclass(frozen=True, slots=True)
class FieldRule:
    """The family's answer for a field that no other source states: a value, or a function of settled fields.

    *certain* follows from the model class; *assumed* holds for every published checkpoint and is listed as such.
    """

    field: str
    value: Any
    certainty: Literal["certain", "assumed"]
    reason: str
    applies: Callable[[Mapping[str, Any]], bool] = lambda _: True

    def answer(self, settled: Mapping[str, Any]) -> Any:
        return self.value(settled) if callable(self.value) else self.value


@dataclass(frozen=True, slots=True)
class GgufGraph:
    """The graph with which llama.cpp computes the family: what its GGUF files can state, and its defaults.

    A tensor that the graph does not have makes llama.cpp reject the file, a key that it does not read is ignored.
    """

    slug: str | None = None
    """The file's `general.architecture`; None where llama.cpp has no graph of the family."""
    permutes_rows: bool = False
    """RoPE on adjacent pairs: files hold the rows of q and k interleaved."""
    adds_one_to_norms: bool = False
    """Norms add 1 to their weight: files hold the sum."""
    layer_norm: bool = False
    """It has LayerNorm, whose epsilon has a key of its own."""
    windowed: bool = False
    """It reads `attention.sliding_window` (0: none); all other graphs attend to every position."""
    head: Literal["optional", "tied", "own"] = "optional"
    """Whether the head is always the embedding, never, or where there is no head (llama-model.cpp)."""
    ignores_window: bool = False
    """It reads the window and attends to all positions all the same."""
    scales: tuple[str, ...] = ("linear", "yarn")
    """The types of scaled rotation that it computes; others need tensors of factors, which not every graph has."""
    biases: Literal["none", "optional", "required"] = "none"
    """Whether it has biases on projections."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that it fixes without a key."""
    ignores: tuple[str, ...] = ()
    """Fields whose key it does not read."""
    unsupported: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    """Keys that it reads and the class cannot express: the value without effect, and what another value means."""
    full_attention_every: int | None = None
    """The period of layers that attend to all positions, where no key states it."""
    unrotated_every: int | None = None
    """The period of layers without rotation."""
    layers_of_27b: int | None = None
    """Layers of the one size whose queries are scaled by hidden size / heads in place of the head size."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family of causal language models, named after its `transformers` model type.

    `fields` are what its forward pass depends on. `config_keys` gives the family's own spellings in Hugging Face
    configs; `derive` is what its config class computes from other keys of a config that leaves a field out; `gguf` is
    llama.cpp's graph of it.
    """

    model_type: str
    class_name: str
    config_name: str
    tensors: tuple[TensorRule, ...]
    rules: tuple[FieldRule, ...]
    fields: tuple[str, ...] = fields()
    other_names: tuple[str, ...] = ()
    config_keys: Mapping[str, str] = field(default_factory=dict)
    derive: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a config that leaves a field out means: its config class's defaults, for what shapes do not prove."""
    certain_chat_template: str | None = None
    pre_tokenizer: tuple[str, bool] | None = None
    """How its byte-level tokenizers split text, and whether that is an assumption (other models differ)."""
    nfc_vocabulary: tuple[str, str, int] | None = None
    """Its published vocabulary, whose text is normalised to NFC: a name, and one token with its id."""
    pad_token: str | None = None
    """The padding token of its published models, absent from their metadata."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How `transformers` computes it exactly: caps on attention logits need `eager`."""
    window_switch: bool = False
    """Its config class looks at `use_sliding_window`, without which there is no window; others do not have that key."""
    exceeds_float16: bool = False
    """Activations of its published models exceed float16's largest number, 65,504."""
    gguf: GgufGraph = GgufGraph()

    @property
    def has_experts(self) -> bool:
        return any(rule.per_expert for rule in self.tensors)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model_type, self.class_name.lower(), *self.other_names)
