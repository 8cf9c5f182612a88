"""Saved LoRA adapters: a folder in PEFT's own layout, written and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aprnb.adapters.base_content import BaseContent
from aprnb.adapters.files import CONFIG_NAME, RECORD_NAME, WEIGHTS_NAME, read_adapter
from aprnb.adapters.pairs import pairs_of
from aprnb.formats.atomic import atomic_folder
from aprnb.printable import visible
from aprnb.tuning.results.owned_files import ADAPTER_FILES, own_adapter_files
from aprnb.tuning.start_adapter import require_plain
from aprnb.tuning.tensor_files import write_tensors
from aprnb.tuning.training.lora import adapted_layers, fill, import_peft, wrapped_by_peft

_USED_BY_PEFT = ("r", "lora_alpha", "use_rslora", "fan_in_fan_out")


def save_adapter(
    model: Any, folder: Path, base: Path, *, force: bool = False, content: BaseContent | None = None
) -> Path:
    """Writes PEFT's two files to `folder`, all or nothing; `base` is the `.apr` that was tuned.

    With the base's `content` a third file records it: `merge` detects from it whether the base was changed since, and
    `force` whether the folder is one of ours. Raises OutputExists where `folder` exists and may not be replaced.
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
    """`model` wrapped by PEFT with the plain LoRA in `folder`.

    Raises what reading the adapter raises, and UsageProblem for a variant, and for a missing or an unexpected tensor:
    PEFT only warns.
    """
    import_peft()
    from peft import LoraConfig

    adapter = read_adapter(folder)
    require_plain(adapter)
    modules = [module for module, *_ in pairs_of(adapter)]  # not the file's pattern
    kept = {name: value for name, value in adapter.config.values.items() if name in _USED_BY_PEFT}
    config = LoraConfig(**kept, target_modules=modules, inference_mode=not trainable)
    wrapped = wrapped_by_peft(model, config)
    fill(wrapped, adapter)
    return wrapped


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
