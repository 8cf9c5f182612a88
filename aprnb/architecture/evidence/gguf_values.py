"""The values of a GGUF file's keys, looked up below the architecture's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aprnb.architecture.families import Family
from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint

Say = Callable[[str, Any, str], None]
"""Called with a field, its value and what states it."""

MAX_FACTORS = 4096


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

    def __getitem__(self, key: str) -> Any:
        return self._value(f"{self.architecture}.{key}")

    def number(self, key: str) -> float | int | None:
        """A positive number; None for anything else."""
        value = self[key]
        return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None

    def factors(self, tensor: str) -> np.ndarray:
        """The values of a tensor of RoPE factors; raises where it cannot be one."""
        entry = self.checkpoint.tensors[tensor]
        if not entry.dtype.is_float or entry.elements > MAX_FACTORS:
            raise ArchitectureError(
                f"{tensor} is {entry.dtype.name} {list(entry.shape)}", expected=f"at most {MAX_FACTORS:,} floats",
                where=str(self.checkpoint.path),
            )  # fmt: skip
        return self.checkpoint[tensor].reshape(-1)
