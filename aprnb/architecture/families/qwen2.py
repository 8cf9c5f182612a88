"""Qwen2 and Qwen2.5 (dense): biases on q, k and v are part of the class."""

from aprnb.architecture.families.decoder import (
    COMMON,
    NO_LAYER_TYPES,
    NO_MLP_BIAS,
    NO_ROPE_SCALING,
    NO_SLIDING_WINDOW,
    POSITIONS,
    SILU,
    qkv_biases,
    windowed_layers,
)
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph, fields

QWEN2 = Family(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    config_name="Qwen2Config",
    other_names=("qwen", "qwen2.5", "qwen2_5"),
    tensors=(*COMMON, *qkv_biases()),
    rules=(
        FieldRule("attention_bias", True, "certain", "the class has biases on q, k and v"),
        NO_MLP_BIAS,
        NO_SLIDING_WINDOW,
        NO_LAYER_TYPES,
        NO_ROPE_SCALING,
        POSITIONS,
        SILU,
    ),
    fields=fields(more="layer_types"),
    derive=windowed_layers,
    window_switch=True,
    certain_chat_template="chatml",
    pre_tokenizer=("qwen2", False),
    gguf=GgufGraph("qwen2", biases=True),
)
