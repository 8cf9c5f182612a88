"""From an architecture and a checkpoint to a `transformers` module with its tokenizer."""

from aprnb.errors import MissingExtra

try:
    import torch
    import transformers
except ModuleNotFoundError as error:
    raise MissingExtra("train", error.name or "torch") from None
del torch, transformers

from aprnb.model.build import build_model, load, model_config  # noqa: E402
from aprnb.model.device import Placement, place  # noqa: E402
from aprnb.model.generate import Generation, generate  # noqa: E402

__all__ = ["Generation", "Placement", "build_model", "generate", "load", "model_config", "place"]
