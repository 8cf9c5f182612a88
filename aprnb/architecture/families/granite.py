"""Granite (dense): Llama with four multipliers, which `.apr` metadata does not contain and must be given."""

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields

GRANITE = Family(
    model_type="granite",
    class_name="GraniteForCausalLM",
    config_name="GraniteConfig",
    tensors=(*decoder.COMMON, *decoder.ATTENTION_BIASES, *decoder.MLP_BIASES),
    rules=(decoder.FULL_ATTENTION, decoder.NO_ROPE_SCALING, decoder.POSITIONS, decoder.SILU),
    fields=fields(more="embedding_multiplier attention_multiplier residual_multiplier logits_scaling"),
    gguf=GgufGraph("granite", permutes_rows=True, biases=True),
)
