"""The values of one GGUF file below its architecture's name, and its tensors of RoPE factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aprnb.architecture.families import Family
from aprnb.errors import ArchitectureError, UnsupportedFamily
from aprnb.formats import Checkpoint
from aprnb.formats.fields import FIELDS, LAYER_NORM_EPSILON, Field
from aprnb.printable import short

MAX_FACTORS = 4096
PATTERN, LINEAR = "attention.sliding_window_pattern", "rope.scale_linear"

Say = Callable[[str, Any, str], None]
"""Called with a field, its value and what states it."""


class GgufKeys:
    """One file's values, None for an absent one, and the family that it is of."""

    def __init__(self, checkpoint: Checkpoint, family: Family) -> None:
        values = checkpoint.metadata.get("gguf.kv")
        self._values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        self.checkpoint, self.family, self.graph = checkpoint, family, family.gguf
        self.architecture = str(self._value("general.architecture"))

    def _value(self, key: str) -> Any:
        entry = self._values.get(key)
        return entry["v"] if isinstance(entry, Mapping) and "v" in entry else None

    def __getitem__(self, name: str) -> Any:
        """The value of a field, or of a key below the architecture's name."""
        return self._value(f"{self.architecture}.{FIELDS[name].gguf[0] if name in FIELDS else name}")

    def names(self) -> list[str]:
        """Every key below the architecture's name, without it."""
        below = f"{self.architecture}."
        return [key.removeprefix(below) for key in self._values if key.startswith(below)]

    def number(self, name: str) -> float | int | None:
        """A positive number; None for anything else."""
        value = self[name]
        return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None

    def source_of(self, field: Field) -> str:
        """What states a field of the typed metadata: its key, or what stands for an absent one."""
        below, key = f"GGUF {self.architecture}.", field.gguf[0]
        if field.name == "vocab_size" and self[key] is None:
            return "shape of token_embd.weight"
        if field.name == "num_key_value_heads" and self[key] is None:
            return f"{below}{FIELDS['num_attention_heads'].gguf[0]} ({key} is absent)"
        if field.name == "rms_norm_eps" and self[key] is None:
            return f"{below}{LAYER_NORM_EPSILON}"
        return f"{below}{key}"

    def require_equal_layers(self) -> None:
        """Raises UnsupportedFamily for heads that differ between layers."""
        for name in ("num_attention_heads", "num_key_value_heads"):
            value = self[name]
            if isinstance(value, list) and any(one != value[0] for one in value):
                raise UnsupportedFamily(
                    f"GGUF {self.architecture}.{FIELDS[name].gguf[0]} differs between layers: {short(value)}",
                    expected="the same number in each layer", where=str(self.checkpoint.path),
                    action="inspection still shows its tensors",
                )  # fmt: skip

    def factors(self, tensor: str) -> np.ndarray:
        """The values of a tensor of RoPE factors; raises for one with another dtype or too many elements."""
        entry = self.checkpoint.tensors[tensor]
        if not entry.dtype.is_float or entry.elements > MAX_FACTORS:
            raise ArchitectureError(
                f"{tensor} is {entry.dtype.name} {list(entry.shape)}", expected=f"at most {MAX_FACTORS:,} floats",
                where=str(self.checkpoint.path),
            )  # fmt: skip
        return self.checkpoint[tensor].reshape(-1)
