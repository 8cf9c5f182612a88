"""The names of an adapter's tensors: the module, and which part of its adapter the tensor is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["A", "B", "B.bias", "embedding A", "embedding B", "magnitude", "tokens", "weight", "bias"]

PREFIX = "base_model.model."
RENAME = f"name the tensors as PEFT does, {PREFIX}MODULE.lora_A.weight: PEFT ignores other names"
_NAMED = r"(?:\.(?!weight$)(?P<adapter>[\w-]+))?"
"""The adapter's own name, which PEFT leaves out of files and some trainers do not."""
_ENDINGS: Mapping[Part, str] = {
    "A": rf"\.lora_A{_NAMED}\.weight",
    "B": rf"\.lora_B{_NAMED}\.weight",
    "B.bias": rf"\.lora_B{_NAMED}\.bias",
    "embedding A": rf"\.lora_embedding_A{_NAMED}",
    "embedding B": rf"\.lora_embedding_B{_NAMED}",
    "magnitude": rf"\.lora_magnitude_vector{_NAMED}(?:\.weight)?",
    "tokens": rf"\.token_adapter\.trainable_tokens_delta{_NAMED}",
    "weight": rf"(?P<wrapped>\.base_layer)?(?:\.modules_to_save{_NAMED})?\.weight",
    "bias": rf"(?P<wrapped>\.base_layer)?(?:\.modules_to_save{_NAMED})?\.bias",
}
_NAMES = {
    part: re.compile(rf"{re.escape(PREFIX)}(?P<module>[A-Za-z_][\w.]*?){ending}", re.ASCII)
    for part, ending in _ENDINGS.items()
}


@dataclass(frozen=True)
class Key:
    """One tensor's name: `wrapped` is a base's tensor saved from inside the module that PEFT puts around it."""

    module: str
    part: Part
    adapter: str | None = None
    wrapped: bool = False


def read_key(name: str) -> Key | None:
    """The parts of a tensor's name; None for a name that PEFT does not write."""
    for part, expression in _NAMES.items():
        match = expression.fullmatch(name)
        if match:
            found = match.groupdict()
            return Key(found["module"], part, found["adapter"], bool(found.get("wrapped")))
    return None


def is_renamed(name: str, weights: Iterable[str]) -> bool:
    """Whether `name` is one of `weights` as other tools than PEFT name it: with more around it, or less before it."""
    return any(
        name.endswith(f".{weight}") or weight.endswith(f".{name}")
        or (name.endswith(".weight") and name.startswith(weight.removesuffix("weight")))
        for weight in weights
    )  # fmt: skip


def adapter_names(keys: Iterable[Key]) -> set[str]:
    """The adapters' own names that occur."""
    return {key.adapter for key in keys if key.adapter}
