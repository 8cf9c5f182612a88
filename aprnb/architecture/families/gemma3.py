"""Gemma 3 (text): norms on queries and keys, windowed layers with another rotation base.

A config without `layer_types` means what the class computes: all but every `sliding_window_pattern`-th layer attend to
the window. Models with a vision tower are another class.
"""

from collections.abc import Mapping
from typing import Any

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields
from aprnb.architecture.families.gemma import GEGLU
from aprnb.architecture.families.gemma2 import SANDWICH


def _from_class(config: Mapping[str, Any]) -> dict[str, Any]:
    layers = config.get("num_hidden_layers")
    period = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    derived: dict[str, Any] = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    if isinstance(layers, int) and isinstance(period, int) and period > 0:
        derived["layer_types"] = decoder.partly_windowed(period, period - 1)(layers)
    return derived


GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    exceeds_float16=True,
    class_name="Gemma3ForCausalLM",
    config_name="Gemma3TextConfig",
    tensors=(
        decoder.EMBEDDING,
        *SANDWICH,
        *decoder.ATTENTION,
        *decoder.QK_NORMS,
        *decoder.ATTENTION_BIASES,
        *decoder.GATED_MLP,
        decoder.FINAL_NORM,
        decoder.HEAD,
    ),
    rules=(decoder.NO_MLP_BIAS, decoder.POSITIONS, GEGLU),
    fields=fields(
        more="query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping layer_types rope_local_base_freq"
    ),
    config_keys={"hidden_act": "hidden_activation"},
    derive=_from_class,
    defaults=decoder.class_defaults(
        131_072,
        heads=8,
        theta=1_000_000.0,
        act="gelu_pytorch_tanh",
        tied=True,
        sliding_window=4096,
        query_pre_attn_scalar=256,
        rope_local_base_freq=10_000.0,
    ),
    gguf=GgufGraph(
        "gemma3",
        adds_one_to_norms=True,
        windowed=True,
        fixed={"rope_local_base_freq": 10_000.0, "attn_logit_softcapping": None, "final_logit_softcapping": None},
        ignores=("attn_logit_softcapping",),
        full_attention_every=6,
        layers_of_27b=62,
    ),
)
