"""The keys of a GGUF file's architecture that no field expresses: named in a warning, or in an error.

The names are those of `src/llama-arch.cpp`; what a graph computes from them is in `src/models/` of llama.cpp.
"""

from __future__ import annotations

from typing import Any

from aprnb.architecture.evidence import rope
from aprnb.architecture.evidence.gguf_values import LINEAR, PATTERN, GgufKeys
from aprnb.architecture.families import Family
from aprnb.errors import UnsupportedFamily
from aprnb.formats import Checkpoint
from aprnb.formats.fields import FIELDS, LAYER_NORM_EPSILON, ROTATED_SIZE, SLIDING_WINDOW
from aprnb.printable import short, shown_name

_READ = frozenset(
    {SLIDING_WINDOW, PATTERN, ROTATED_SIZE, LAYER_NORM_EPSILON, LINEAR, "vocab_size"}
    | {rope.TYPE, rope.FACTOR, rope.ORIGINAL, rope.ATTENTION_FACTOR, *rope.YARN.values()}
)
_WITHOUT_EFFECT = frozenset(
    "rope.scaling.finetuned pooling_type tensor_data_layout nextn_predict_layers"
    " interleave_moe_layer_step leading_dense_block_count".split()
)
"""Keys that are written by converters and that the graphs of the families do not compute with."""
_ENCODER = {"attention.causal": (True, "an encoder (bidirectional)")}
MAX_WARNINGS = 10


def unread_keys(checkpoint: Checkpoint, family: Family) -> list[str]:
    """A warning for each key that has a value and is not read; raises UnsupportedFamily for what is known to matter."""
    if checkpoint.format != "gguf":
        return []
    keys, graph, unsupported = GgufKeys(checkpoint, family), family.gguf, {**_ENCODER, **family.gguf.unsupported}
    keys.require_equal_layers()
    for key, (neutral, meaning) in unsupported.items():
        if keys[key] not in (None, neutral):
            raise UnsupportedFamily(
                f"{keys.architecture}.{key} is {short(keys[key])}: this is {meaning}, which is not supported",
                where=str(checkpoint.path), action="inspection still shows its tensors",
            )  # fmt: skip
    stated = {key for name in family.fields if name not in graph.ignores for key in FIELDS[name].gguf}
    known = stated | _READ | _WITHOUT_EFFECT | unsupported.keys()
    unread = sorted(key for key in keys.names() if key not in known and _has_value(keys[key]))
    warnings = [
        f"GGUF {shown_name(f'{keys.architecture}.{key}')} is {short(keys[key])} and not read; "
        "the result is wrong if it changes the forward pass"
        for key in unread[:MAX_WARNINGS]
    ]
    rest = len(unread) - MAX_WARNINGS
    return (
        [*warnings, f"GGUF has {rest:,} more keys of {keys.architecture} that are not read"] if rest > 0 else warnings
    )


def _has_value(value: Any) -> bool:
    """Converters write 0, false and empty lists for what a model does not have."""
    return value not in (None, False, 0, "", [])
