"""GGUF files that hold an adapter and not a model: what their header says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aprnb.errors import UnsupportedFormat
from aprnb.formats.contents import TensorEntry
from aprnb.formats.gguf.values import GgufValue
from aprnb.printable import shown_name


def reject_adapter(path: Path, values: Mapping[str, GgufValue], tensors: Mapping[str, TensorEntry]) -> None:
    """Raises UnsupportedFormat, with the header's values as facts, where `general.type` is "adapter"."""
    if "general.type" not in values or values["general.type"].value != "adapter":
        return
    ranks = sorted({entry.shape[-1] for name, entry in tensors.items() if name.endswith(".lora_b") and entry.shape})
    facts = {
        "kind": {"lora": "LoRA"}.get(_text(values, "adapter.type"), _text(values, "adapter.type")),
        "architecture": _text(values, "general.architecture"),
        "rank": ", ".join(map(str, ranks[:8])) + (" …" if len(ranks) > 8 else "") if ranks else "none",
        "alpha": _text(values, "adapter.lora.alpha"),
        "tensors": f"{len(tensors):,}",
    }
    about = f"rank {facts['rank']}, alpha {facts['alpha']}, {facts['tensors']} tensors"
    raise UnsupportedFormat(
        f"{path} is a {facts['kind']} adapter for {facts['architecture']} ({about}), not a model",
        expected="a model",
        action=f"use it with its base in llama.cpp: `llama-cli -m BASE.gguf --lora {path.name}`",
        facts=facts,
    )


def _text(values: Mapping[str, GgufValue], key: str) -> str:
    return shown_name(str(values[key].value)) if key in values else "unknown"
