"""Qwen3 (dense): RMS norms on the query and key heads, a head size of its own."""

from aprnb.architecture.families.decoder import (
    ATTENTION_BIASES,
    COMMON,
    NO_MLP_BIAS,
    NO_ROPE_SCALING,
    NO_SLIDING_WINDOW,
    POSITIONS,
    QK_NORMS,
    SILU,
)
from aprnb.architecture.families.family import Family

QWEN3 = Family(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    config_name="Qwen3Config",
    other_names=(),
    tensors=(*COMMON, *QK_NORMS, *ATTENTION_BIASES),
    rules=(NO_MLP_BIAS, NO_SLIDING_WINDOW, NO_ROPE_SCALING, POSITIONS, SILU),
    certain_chat_template="chatml",
)
