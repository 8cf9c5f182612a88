"""Qwen3 (dense): RMS norms on the query and key heads, a head size of its own."""

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields

QWEN3 = Family(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    config_name="Qwen3Config",
    tensors=(*decoder.COMMON, *decoder.QK_NORMS, *decoder.ATTENTION_BIASES),
    rules=(
        decoder.NO_MLP_BIAS,
        decoder.NO_SLIDING_WINDOW,
        decoder.NO_LAYER_TYPES,
        decoder.NO_ROPE_SCALING,
        decoder.POSITIONS,
        decoder.SILU,
    ),
    fields=fields(more="layer_types"),
    derive=decoder.windowed_layers,
    defaults=decoder.class_defaults(32_768, sliding_window=None),
    window_switch=True,
    certain_chat_template="chatml",
    pre_tokenizer=("qwen2", False),
    pad_token="<|endoftext|>",
    gguf=GgufGraph("qwen3"),
)
