"""What the folder of a LoRA adapter says, for its report, whose error states that an adapter is not a model."""

from __future__ import annotations

from pathlib import Path

from aprnb.adapters import read_adapter
from aprnb.errors import UnsupportedFormat
from aprnb.printable import first_names, shown_name


def adapter_error(folder: Path) -> UnsupportedFormat:
    """The error for an adapter in place of a model, with its facts.

    Raises what reading the adapter raises, so that a broken or unsupported one is named.
    """
    adapter = read_adapter(folder)
    config = adapter.config
    modules = sorted({key.module.rpartition(".")[2] for key in adapter.tensors})
    variants = [key for key in ("use_dora", "use_rslora", "lora_bias") if config.is_set(key)]
    base = config.values.get("base_model_name_or_path")
    facts = {
        "kind": " ".join(["LoRA", *variants]),
        "rank": str(config.rank) + (" and others" if config.ranks else ""),
        "alpha": f"{config.alpha:g}" + (" and others" if config.alphas else ""),
        "modules": first_names(modules, 12),
        "tensors": f"{len(adapter.tensors):,}",
        "base": shown_name(base) if isinstance(base, str) else "unknown",
    }
    return UnsupportedFormat(
        f"{folder} is a PEFT adapter (LoRA, rank {facts['rank']}, alpha {facts['alpha']}, {facts['tensors']} tensors), "
        "not a model",
        expected="a model",
        action=f"merge it into its base: `aprnb merge BASE {folder.name} --output X.apr`",
        facts=facts,
    )
