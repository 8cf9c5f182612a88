"""Name, licence and origin of a model, as its file or folder states them, for the inspection card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.display.document import Block, Details, Fields
from aprnb.formats import Checkpoint
from aprnb.formats.gguf.metadata import EVIDENCE
from aprnb.formats.gguf.provenance import general, own_name
from aprnb.printable import first_names

_FIRST = (
    "name", "license", "license.name", "license.link", "organization", "author", "version", "basename", "finetune",
    "size_label", "languages", "tags", "description", "file_type", "quantized_by", "base_model",
)  # fmt: skip
_FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""llama.cpp's names for `general.file_type`."""
_MOST_CHARACTERS, _MOST_ROWS = 400, 40


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is stated, under GGUF's keys without `general.`, the usual ones first; empty where nothing is."""
    stated = general(checkpoint.metadata)
    name, kind = own_name(checkpoint.metadata), _file_type(checkpoint)
    found = {**stated, **({"name": name} if name else {}), **({"file_type": kind} if kind else {})}
    order = {key: place for place, key in enumerate(_FIRST)}
    return {key: found[key] for key in sorted(found, key=lambda key: (order.get(key.split(".")[0], len(order)), key))}


def provenance_block(checkpoint: Checkpoint) -> tuple[Block, ...]:
    """A section with a row for each; empty where nothing is stated."""
    rows = tuple(
        (key, _shown(value), "") for key, value in provenance(checkpoint).items() if not key.endswith(".count")
    )
    return (Details("Provenance", (Fields(rows[:_MOST_ROWS]),)),) if rows else ()


def _shown(value: Any) -> str:
    return (first_names(value, 20) if isinstance(value, list) else str(value))[:_MOST_CHARACTERS]


def _file_type(checkpoint: Checkpoint) -> str | None:
    """The name of the type that a GGUF file declares for most of its tensors."""
    kept = checkpoint.metadata.get(EVIDENCE)
    stated = kept.get("general.file_type") if isinstance(kept, Mapping) else None
    number = stated.get("v") if isinstance(stated, Mapping) else None
    return _FILE_TYPES.get(number, f"type {number}") if type(number) is int else None
