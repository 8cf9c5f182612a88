"""Granite (dense): Llama with four multipliers, which are in no `.apr` metadata and must be given."""

from aprnb.architecture.families.decoder import (
    ATTENTION_BIASES,
    COMMON,
    FULL_ATTENTION,
    MLP_BIASES,
    NO_ROPE_SCALING,
    POSITIONS,
    SILU,
)
from aprnb.architecture.families.family import Family, GgufGraph, fields

GRANITE = Family(
    model_type="granite",
    class_name="GraniteForCausalLM",
    config_name="GraniteConfig",
    other_names=(),
    tensors=(*COMMON, *ATTENTION_BIASES, *MLP_BIASES),
    rules=(FULL_ATTENTION, NO_ROPE_SCALING, POSITIONS, SILU),
    fields=fields(more="embedding_multiplier attention_multiplier residual_multiplier logits_scaling"),
    gguf=GgufGraph("granite", permutes_rows=True, biases=True),
)
