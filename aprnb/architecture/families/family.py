"""What a model family is to us: names it goes by, its tensors with symbolic shapes, and rules for silent fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["embedding", "norm", "linear", "bias", "head"]


@dataclass(frozen=True, slots=True)
class TensorRule:
    """A tensor of the family; `{layer}` in a name stands for the layer's number.

    `shape` holds one symbolic dimension per axis: a field name, or several joined by `*`. `when` names the boolean
    field that must be true for the tensor to exist. `rotated_heads` names the head count of a projection whose rows
    GGUF files of a permuting family hold in interleaved order.
    """

    name: str
    gguf: str
    shape: tuple[str, ...]
    role: Role
    when: str | None = None
    rotated_heads: str | None = None

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.name


@dataclass(frozen=True, slots=True)
class FieldRule:
    """The family's answer where nothing above it speaks.

    *certain* follows from the model class; *assumed* holds for every published checkpoint and is listed as such.
    """

    field: str
    value: Any
    certainty: Literal["certain", "assumed"]
    reason: str
    applies: Callable[[Mapping[str, Any]], bool] = lambda settled: True


@dataclass(frozen=True, slots=True)
class Family:
    """One family of causal language models, named after its `transformers` model type."""

    model_type: str
    class_name: str
    config_name: str
    other_names: tuple[str, ...]
    tensors: tuple[TensorRule, ...]
    rules: tuple[FieldRule, ...]
    certain_chat_template: str | None = None
    permutes_in_gguf: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model_type, self.class_name.lower(), *self.other_names)
