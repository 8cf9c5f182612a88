"""LoRA adapters of PEFT: their folders, which are untrusted, and what they change in a base."""

from aprnb.adapters.changes import Change, LowRank, Normalised, Replaced
from aprnb.adapters.files import CONFIG_NAME, WEIGHTS_NAME, AdapterFiles, is_adapter_folder, read_adapter
from aprnb.adapters.fit import changes_of

__all__ = [
    "CONFIG_NAME", "WEIGHTS_NAME", "AdapterFiles", "Change", "LowRank", "Normalised", "Replaced", "changes_of",
    "is_adapter_folder", "read_adapter",
]  # fmt: skip
