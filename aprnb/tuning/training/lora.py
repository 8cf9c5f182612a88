"""LoRA adapters: attached with PEFT, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aprnb.adapters import read_adapter
from aprnb.adapters.base_content import expected_base, require_base
from aprnb.adapters.files import AdapterFiles
from aprnb.errors import GateError, UsageProblem, closest
from aprnb.model.quiet import quiet_loading
from aprnb.tuning.planning.recipe import SettledRecipe

if TYPE_CHECKING:
    from aprnb.architecture import ContractReport
    from aprnb.formats import Checkpoint


def attach(model: Any, recipe: SettledRecipe, modules: Iterable[str] | None = None) -> Any:
    """`model` wrapped by PEFT with fresh LoRA matrices (A random from the recipe's seed, B zero), in float32.

    `modules` are the names that the recipe's `target_modules` mean in this model; PEFT's default includes experts.
    Sets torch's seed. Raises UsageProblem for a target module that the model does not have.
    """
    import_peft()
    from peft import LoraConfig

    check_targets(model, recipe.target_modules)
    names = recipe.target_modules if modules is None else tuple(modules)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # PEFT takes any number
        lora_dropout=recipe.lora_dropout,
        target_modules=names if isinstance(names, str) else list(names),
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(recipe.seed)
    return wrapped_by_peft(model, config)


def start_from(module: Any, folder: Path, checkpoint: Checkpoint, report: ContractReport) -> None:
    """Fills the fresh matrices of `module` with those of the adapter in `folder`, a plain LoRA of the same base.

    Raises UsageProblem where it was trained on another base, or has other modules.
    """
    require_base(expected_base(folder, report, other_base=False), checkpoint)
    fill(module, read_adapter(folder))


def fill(module: Any, adapter: AdapterFiles) -> None:
    """The matrices of `module` become those of `adapter`; raises UsageProblem for a missing or an unexpected tensor."""
    from peft import set_peft_model_state_dict

    tensors = {
        f"base_model.model.{key.module}.lora_{key.part}.weight": torch.from_numpy(values.copy())
        for key, values in adapter.tensors.items()
    }
    result: Any = set_peft_model_state_dict(module, tensors)
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if missing or result.unexpected_keys:
        odd = (missing + list(result.unexpected_keys))[0]
        found = f"the adapter in {adapter.folder} does not fit the model: {odd}"
        raise UsageProblem(found, expected="the same tensors in both")


def prepare_full(model: nn.Module) -> nn.Module:
    """`model` with every parameter trainable; raises GateError for weights in 16 bits, which round small updates away.

    A model that is loaded in 16 bits and cast afterwards has lost what its file holds beyond them.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise GateError(f"{name} is in {parameter.dtype}", expected="float32", where="full training")
    model.requires_grad_(True)
    return model


def check_targets(model: Any, target_modules: str | tuple[str, ...]) -> None:
    """Raises UsageProblem for a name that no linear module of the layers has; the head takes no adapter."""
    if isinstance(target_modules, str):
        return
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linears = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    for name in target_modules:
        if name not in linears:
            found = f"--target-modules {name}{closest(name, linears)}"
            raise UsageProblem(found, expected="some of " + ", ".join(sorted(linears)))


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The modules with LoRA matrices, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def import_peft() -> None:
    """Imports PEFT without the messages about optional kernels of bitsandbytes, which it imports."""
    with quiet_loading():
        import peft  # noqa: F401  imported here first, where its remarks are silenced


def wrapped_by_peft(model: Any, config: Any) -> Any:
    """The model inside PEFT, adapters in float32, without PEFT's warnings that do not concern aprnb."""
    from peft import get_peft_model

    config.base_model_name_or_path = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*checkpointing.*deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)  # GPT-2
        return get_peft_model(model, config, autocast_adapter_dtype=True)
