"""Gemma 2: norms before and after each block, soft caps on attention and final logits, every other layer windowed.

Soft caps, query scale and window are missing in `.apr` metadata and must be given. A config without `layer_types` means
what the class computes: layers 0, 2, … attend to the window.
"""

from collections.abc import Mapping
from typing import Any

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields
from aprnb.architecture.families.gemma import GEGLU

SANDWICH = (
    decoder.INPUT_NORM,
    decoder.norm("post_attention_layernorm", "post_attention_norm"),
    decoder.norm("pre_feedforward_layernorm", "ffn_norm"),
    decoder.norm("post_feedforward_layernorm", "post_ffw_norm"),
)


def _layer_types(config: Mapping[str, Any]) -> dict[str, Any]:
    layers = config.get("num_hidden_layers")
    return {"layer_types": decoder.partly_windowed(2, 1)(layers)} if isinstance(layers, int) else {}


GEMMA2 = Family(
    model_type="gemma2",
    exceeds_float16=True,
    class_name="Gemma2ForCausalLM",
    config_name="Gemma2Config",
    tensors=(
        decoder.EMBEDDING,
        *SANDWICH,
        *decoder.ATTENTION,
        *decoder.ATTENTION_BIASES,
        *decoder.GATED_MLP,
        decoder.FINAL_NORM,
        decoder.HEAD,
    ),
    rules=(decoder.NO_MLP_BIAS, decoder.NO_ROPE_SCALING, decoder.POSITIONS, GEGLU),
    fields=fields(more="query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping layer_types"),
    config_keys={"hidden_act": "hidden_activation"},
    derive=_layer_types,
    defaults=decoder.class_defaults(
        8192,
        heads=8,
        act="gelu_pytorch_tanh",
        tied=True,
        sliding_window=4096,
        query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    ),
    attention="eager",
    gguf=GgufGraph(
        "gemma2", adds_one_to_norms=True, windowed=True, head="tied", full_attention_every=2, layers_of_27b=46
    ),
)
