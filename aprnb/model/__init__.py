"""Builds `transformers` modules from architectures and checkpoints, and generates with them.

The names below are imported on first use: a plan needs a device and a tokenizer, not the modelling code.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from aprnb.errors import MissingExtra

_HOMES = {
    "build_model": "aprnb.model.build",
    "load": "aprnb.model.loading",
    "model_config": "aprnb.model.build",
    "Placement": "aprnb.model.device",
    "place": "aprnb.model.device",
    "Generation": "aprnb.model.answer",
    "generate": "aprnb.model.generation",
}
__all__ = ["Generation", "Placement", "build_model", "generate", "load", "model_config", "place"]

if TYPE_CHECKING:
    from aprnb.model.answer import Generation
    from aprnb.model.build import build_model, model_config
    from aprnb.model.device import Placement, place
    from aprnb.model.generation import generate
    from aprnb.model.loading import load


def _is_missing(package: str) -> bool:
    try:
        return find_spec(package) is None
    except ModuleNotFoundError:
        return True


for _package in ("torch", "transformers"):
    if _is_missing(_package):
        raise MissingExtra("train", _package)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aprnb.model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
