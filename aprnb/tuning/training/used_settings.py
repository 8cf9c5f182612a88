"""The settings that a module really has, and those that its plan says: a difference stops the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from aprnb.errors import GateError
from aprnb.tuning.planning.memory import adapted_shapes, linear_shapes
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.training.lora import adapted_layers
from aprnb.tuning.training.loss import causal_model


def read_settings(module: Any) -> dict[str, Any]:
    """The settings of a module that is or was trained, each read from its layers."""
    base, layers, parameters = causal_model(module), list(adapted_layers(module).values()), list(module.parameters())
    quantised = sum(type(layer).__module__.startswith("bitsandbytes") for layer in base.modules())
    recomputes = any(getattr(layer, "gradient_checkpointing", False) for layer in base.modules())
    found = {
        "method": ("qlora" if quantised else "lora") if layers else "full",
        "device": _one_of(parameter.device.type for parameter in parameters),
        "dtype": str(base.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "quantized_layers": quantised,
        "attention": base.config._attn_implementation,
        "gradient_checkpointing": "on" if recomputes else "off",
        "trainable_parameters": sum(one.numel() for one in parameters if one.requires_grad),
    }
    return {**found, **_read_adapter(layers)} if layers else found


def _read_adapter(layers: list[Any]) -> dict[str, Any]:
    """alpha is what the layers multiply B·A with, times the rank."""
    name = layers[0].active_adapters[0]
    return {
        "adapted_layers": len(layers),
        "rank": _one_of(len(layer.lora_A[name].weight) for layer in layers),
        "alpha": _one_of(layer.scaling[name] * len(layer.lora_A[name].weight) for layer in layers),
        "lora_dropout": _one_of(getattr(layer.lora_dropout[name], "p", 0.0) for layer in layers),
    }


def planned_settings(plan: Plan) -> dict[str, Any]:
    """The same settings as the plan has them; fully trained weights are in float32."""
    recipe, architecture = plan.recipe, plan.architecture
    linears = sum(map(len, linear_shapes(architecture).values()))
    found = {
        "method": recipe.method,
        "device": torch.device(plan.facts.device).type,
        "dtype": recipe.dtype if recipe.trains_adapter else "float32",
        "quantized_layers": linears if recipe.quantize_nf4 else 0,
        "attention": architecture.attention,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "trainable_parameters": plan.parameters_trainable,
    }
    if not recipe.trains_adapter:
        return found
    adapted = sum(map(len, adapted_shapes(architecture, recipe.target_modules).values()))
    numbers = {"rank": recipe.rank, "alpha": recipe.alpha, "lora_dropout": recipe.lora_dropout}
    return {**found, "adapted_layers": adapted, **numbers}


def check_settings(plan: Plan, used: Mapping[str, Any]) -> None:
    """Raises GateError that names the first setting in `used` that is not the planned one."""
    planned = planned_settings(plan)
    for name, value in used.items():
        if value != planned.get(name):
            raise GateError(
                f"the run's {name} is {value}",
                expected=f"{planned.get(name)}, as planned",
                action="please report this; the saved states are kept, nothing else is written",
            )


def _one_of(values: Iterable[Any]) -> Any:
    """The value that all of `values` are, or a text that lists them."""
    found = sorted(set(values))
    return found[0] if len(found) == 1 else " and ".join(map(str, found))
