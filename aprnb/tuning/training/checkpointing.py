"""Recomputing activations in the backward pass."""

from __future__ import annotations

from typing import Any

from aprnb.errors import TrainingError
from aprnb.tuning.training.loss import causal_model


def set_checkpointing(model: Any, wanted: str) -> None:
    """Switches recomputing of activations on or off, and checks that the model did so."""
    base = causal_model(model)
    # transformers renamed these from gradient_ to activation_ and warns about the old names.
    prefix = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    if wanted == "on":
        getattr(base, f"{prefix}_checkpointing_enable")(**{f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}})
    else:
        getattr(base, f"{prefix}_checkpointing_disable")()
    if getattr(base, f"is_{prefix}_checkpointing") != (wanted == "on"):
        found = f"{type(base).__name__} cannot recompute activations"
        raise TrainingError(found, action="give --gradient-checkpointing off")
