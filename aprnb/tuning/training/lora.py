"""LoRA adapters: attached with PEFT, kept in float32, stored in PEFT's own layout."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aprnb.errors import UsageProblem, closest
from aprnb.formats.atomic import atomic_folder
from aprnb.model.quiet import quiet_loading
from aprnb.printable import visible
from aprnb.tuning.planning.recipe import Recipe
from aprnb.tuning.results.adapter_files import Delta
from aprnb.tuning.results.base_content import BaseContent
from aprnb.tuning.results.owned_files import ADAPTER_FILES, CONFIG_NAME, RECORD_NAME, WEIGHTS_NAME, own_adapter_files
from aprnb.tuning.tensor_files import write_tensors

_USED_BY_PEFT = ("r", "lora_alpha", "use_rslora", "fan_in_fan_out")


def attach(model: Any, recipe: Recipe, modules: Iterable[str] | None = None) -> Any:
    """`model` wrapped by PEFT with fresh LoRA matrices (A random from the recipe's seed, B zero), in float32.

    `modules` are the names that the recipe's `target_modules` stand for in this model; left to itself, PEFT would also
    take experts. Sets torch's seed. Raises UsageProblem for a target module that the model has not got.
    """
    _import_peft()
    from peft import LoraConfig

    check_targets(model, recipe.target_modules)
    names = recipe.target_modules if modules is None else tuple(modules)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.scale,  # type: ignore[arg-type]  # PEFT takes any number
        lora_dropout=recipe.lora_dropout,
        target_modules=names if isinstance(names, str) else list(names),
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(recipe.seed)
    return _wrapped(model, config)


def prepare_full(model: nn.Module) -> nn.Module:
    """`model` with every parameter trainable and in float32: in 16 bits small updates would be rounded away."""
    model.float()
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
    """The modules that carry LoRA matrices, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def save_adapter(
    model: Any, folder: Path, base: Path, *, force: bool = False, content: BaseContent | None = None
) -> Path:
    """Writes PEFT's two files into `folder`, which arrives whole by rename; `base` is the `.apr` that was tuned.

    With the base's `content` a third file records it, so that `merge` can tell whether the base was changed since, and
    `force` that the folder is one of ours. Raises OutputExists where `folder` is there already and may not be replaced.
    """
    from peft import get_peft_model_state_dict

    config = json.dumps(_config_json(model, base), indent=2, sort_keys=True)
    # Left to choose, PEFT asks the network whether the base's vocabulary has changed.
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    with atomic_folder(folder, force, own_adapter_files(folder)) as written:
        write_tensors(tensors, written / WEIGHTS_NAME)
        (written / CONFIG_NAME).write_text(config + "\n", "utf-8")
        if content is not None:
            record = {"files": list(ADAPTER_FILES), "base": content.to_json()}
            (written / RECORD_NAME).write_text(json.dumps(record) + "\n", "utf-8")
    return folder


def load_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """`model` wrapped by PEFT with the adapter in `folder`.

    Raises what reading the adapter raises, and UsageProblem where a tensor has no place or a place no tensor: PEFT
    would only warn.
    """
    _import_peft()
    from peft import LoraConfig, set_peft_model_state_dict

    delta = Delta(folder)
    kept = {name: value for name, value in delta.config.items() if name in _USED_BY_PEFT}
    modules = [name.removesuffix(".weight") for name in sorted(delta.names)]  # not the file's pattern
    config = LoraConfig(**kept, target_modules=modules, inference_mode=not trainable)
    wrapped = _wrapped(model, config)
    result: Any = set_peft_model_state_dict(wrapped, delta.tensors)
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if missing or result.unexpected_keys:
        odd = (missing + list(result.unexpected_keys))[0]
        found = f"the adapter in {folder} does not fit the model: {odd}"
        raise UsageProblem(found, expected="the same tensors in both")
    return wrapped


def _import_peft() -> None:
    """PEFT brings bitsandbytes along, which remarks on optional kernels when it is first imported."""
    with quiet_loading():
        import peft  # noqa: F401


def _wrapped(model: Any, config: Any) -> Any:
    """The model inside PEFT, adapters in float32, without PEFT's remarks on names that are not ours."""
    from peft import get_peft_model

    config.base_model_name_or_path = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*checkpointing.*deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)  # GPT-2
        return get_peft_model(model, config, autocast_adapter_dtype=True)


def _config_json(model: Any, base: Path) -> dict[str, Any]:
    config = model.peft_config[model.active_adapter].to_dict()
    config["base_model_name_or_path"] = visible(base.name)
    config["inference_mode"] = True
    config["target_modules"] = sorted({name.rpartition(".")[2] for name in adapted_layers(model)})
    return {name: _plain(value) for name, value in config.items()}


def _plain(value: Any) -> Any:
    """Sets and enumerations of PEFT's config as JSON."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return getattr(value, "value", value)
