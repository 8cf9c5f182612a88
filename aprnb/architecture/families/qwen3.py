"""Qwen3 (dense): RMS norms on the query and key heads, a head size of its own."""

from aprnb.architecture.families.decoder import (
    ATTENTION_BIASES,
    COMMON,
    NO_LAYER_TYPES,
    NO_MLP_BIAS,
    NO_ROPE_SCALING,
    NO_SLIDING_WINDOW,
    POSITIONS,
    QK_NORMS,
    SILU,
    windowed_layers,
)
from aprnb.architecture.families.family import Family, GgufGraph, fields

QWEN3 = Family(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    config_name="Qwen3Config",
    other_names=(),
    tensors=(*COMMON, *QK_NORMS, *ATTENTION_BIASES),
    rules=(NO_MLP_BIAS, NO_SLIDING_WINDOW, NO_LAYER_TYPES, NO_ROPE_SCALING, POSITIONS, SILU),
    fields=fields(more="layer_types"),
    derive=windowed_layers,
    window_switch=True,
    certain_chat_template="chatml",
    pre_tokenizer=("qwen2", False),
    gguf=GgufGraph("qwen3"),
)
