"""SmolLM3: Llama with some layers without rotation; which ones is in no `.apr` metadata and must be given."""

from collections.abc import Mapping
from typing import Any

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields


def _from_class(config: Mapping[str, Any]) -> dict[str, Any]:
    """SmolLM3Config: every `no_rope_layer_interval`-th layer is not rotated; a window is for those."""
    layers, interval = config.get("num_hidden_layers"), config.get("no_rope_layer_interval", 4)
    if not isinstance(layers, int) or not isinstance(interval, int) or interval < 1:
        return {}
    stated = config.get("no_rope_layers")
    rotated = (
        stated if isinstance(stated, list) and stated else [int((layer + 1) % interval != 0) for layer in range(layers)]
    )
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return {"no_rope_layers": rotated, "sliding_window": None, "layer_types": None}
    kinds = ["full_attention" if turns else "sliding_attention" for turns in rotated]
    return {"no_rope_layers": rotated, "layer_types": kinds}


SMOLLM3 = Family(
    model_type="smollm3",
    class_name="SmolLM3ForCausalLM",
    config_name="SmolLM3Config",
    tensors=(*decoder.COMMON, *decoder.ATTENTION_BIASES, *decoder.MLP_BIASES),
    rules=(decoder.NO_SLIDING_WINDOW, decoder.NO_LAYER_TYPES, decoder.NO_ROPE_SCALING, decoder.POSITIONS, decoder.SILU),
    fields=fields(more="no_rope_layers layer_types"),
    derive=_from_class,
    defaults=decoder.class_defaults(32_768, heads=16, theta=2_000_000.0, tied=True, sliding_window=None),
    window_switch=True,
    gguf=GgufGraph("smollm3", permutes_rows=True, unrotated_every=4),
)
