"""The report on a LoRA adapter: the folder of PEFT, or the GGUF file of llama.cpp. It is not a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.adapters import read_adapter
from aprnb.display.bundle import Displayed
from aprnb.display.document import Document, Fields, Paragraph
from aprnb.errors import UnsupportedFormat
from aprnb.printable import first_names, message, shown_name

_OF_AN_ADAPTER = frozenset(("kind", "rank", "alpha", "tensors"))


@dataclass(frozen=True)
class AdapterReport(Displayed):
    """An adapter that can be read; everything that needs a model rejects it.

    Attributes:
        path: the folder or file.
        facts: what its config or header says, by name: kind, rank, alpha, number of tensors.
        summary: what it is, in one sentence.
        use: what to do with it.
    """

    path: Path
    facts: Mapping[str, str]
    summary: str
    use: str

    @property
    def ok(self) -> bool:
        """True: a broken or unsupported adapter is an error."""
        return True

    def to_json(self) -> dict[str, Any]:
        """File, header, and what it is for."""
        files = [file for file in self.path.iterdir() if file.is_file()] if self.path.is_dir() else [self.path]
        size = sum(file.stat().st_size for file in files)
        return {
            "file": {"path": str(self.path), "size_bytes": size},
            "header": dict(self.facts),
            "info": f"{self.summary}: {self.use}",
        }

    def document(self) -> Document:
        """What it is, its values, and what to do with it."""
        facts = tuple((name, value, "") for name, value in self.facts.items())
        return Document(self.path.name, "ok", (Paragraph(self.summary), Fields(facts), Paragraph(f"→ {self.use}")))


def report_of_folder(folder: Path) -> AdapterReport:
    """Raises what reading the adapter raises, so that a broken or unsupported one is named."""
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
    about = f"LoRA, rank {facts['rank']}, alpha {facts['alpha']}, {facts['tensors']} tensors"
    summary = message(f"{folder} is a PEFT adapter ({about}), not a model")
    use = f"merge it into its base: `aprnb merge BASE {folder.name} --output X.apr`"
    return AdapterReport(folder, facts, summary, message(use))


def report_of_file(path: Path, error: UnsupportedFormat) -> AdapterReport | None:
    """The report on a GGUF file that is rejected as an adapter; None for another container."""
    if not error.facts.keys() >= _OF_AN_ADAPTER:
        return None
    return AdapterReport(path, error.facts, error.found, error.action or "")
