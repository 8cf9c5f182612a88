"""The values of one GGUF file below its architecture's name, and its tensors of RoPE factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aprnb.architecture.families import Family
from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint
from aprnb.formats.fields import FIELDS

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

    def factors(self, tensor: str) -> np.ndarray:
        """The values of a tensor of RoPE factors; raises for one with another dtype or too many elements."""
        entry = self.checkpoint.tensors[tensor]
        if not entry.dtype.is_float or entry.elements > MAX_FACTORS:
            raise ArchitectureError(
                f"{tensor} is {entry.dtype.name} {list(entry.shape)}", expected=f"at most {MAX_FACTORS:,} floats",
                where=str(self.checkpoint.path),
            )  # fmt: skip
        return self.checkpoint[tensor].reshape(-1)
