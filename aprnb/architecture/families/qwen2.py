"""Qwen2 and Qwen2.5 (dense): biases on q, k and v are part of the class."""

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph, fields

QWEN2 = Family(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    config_name="Qwen2Config",
    other_names=("qwen", "qwen2.5", "qwen2_5"),
    tensors=(*decoder.COMMON, *decoder.qkv_biases()),
    rules=(
        FieldRule("attention_bias", True, "certain", "the class has biases on q, k and v"),
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
    nfc_vocabulary=("Qwen", "<|endoftext|>", 151643),
    pad_token="<|endoftext|>",
    gguf=GgufGraph("qwen2", biases="optional"),
)
