"""Llama 1 to 3 (dense). GGUF files hold its q and k rows permuted for interleaved rotation.

Llama 3.1 and later scale RoPE, which `.apr` metadata cannot state: with more than 8,192 positions the scaling must
be given.
"""

from aprnb.architecture.families.decoder import ATTENTION_BIASES, COMMON, MLP_BIASES, POSITIONS, SILU, class_defaults
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph

UNSCALED_POSITIONS = 8192

LLAMA = Family(
    model_type="llama",
    class_name="LlamaForCausalLM",
    config_name="LlamaConfig",
    other_names=("llama2", "llama3"),
    tensors=(*COMMON, *ATTENTION_BIASES, *MLP_BIASES),
    rules=(
        FieldRule("sliding_window", None, "certain", "the class attends to all positions"),
        FieldRule(
            "rope_scaling",
            None,
            "assumed",
            f"published checkpoints of at most {UNSCALED_POSITIONS:,} positions are unscaled",
            lambda settled: settled.get("max_position_embeddings", UNSCALED_POSITIONS + 1) <= UNSCALED_POSITIONS,
        ),
        POSITIONS,
        SILU,
    ),
    defaults=class_defaults(2048),
    pre_tokenizer=("llama-bpe", True),
    gguf=GgufGraph("llama", permutes_rows=True, biases="optional", scales=("linear", "yarn", "llama3")),
)
