"""Mistral (dense): like Llama without biases; the sliding window differs between releases, and no file states it."""

from aprnb.architecture.families.decoder import COMMON, NO_MLP_BIAS, NO_ROPE_SCALING, POSITIONS, SILU, class_defaults
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph

MISTRAL = Family(
    model_type="mistral",
    class_name="MistralForCausalLM",
    config_name="MistralConfig",
    tensors=COMMON,
    rules=(
        FieldRule("attention_bias", False, "certain", "the class has no attention bias"),
        NO_MLP_BIAS,
        NO_ROPE_SCALING,
        POSITIONS,
        SILU,
    ),
    defaults=class_defaults(131_072, sliding_window=4096),
    pre_tokenizer=("tekken", True),
    gguf=GgufGraph("llama", permutes_rows=True, biases="optional", scales=("linear", "yarn", "llama3")),
)
