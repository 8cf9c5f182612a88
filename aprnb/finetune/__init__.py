"""Fine-tuning: recipe and plan (no torch), then data, loop, gates, state and artefacts.

The names below are imported on first use: reading options must not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {"finetune": "aprnb.finetune.run", "Run": "aprnb.finetune.run", "merge": "aprnb.finetune.merge"}
__all__ = ["Run", "finetune", "merge"]

if TYPE_CHECKING:
    from aprnb.finetune.merge import merge
    from aprnb.finetune.run import Run, finetune


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aprnb.finetune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
