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
    defaults=decoder.class_defaults(
        2048, embedding_multiplier=1.0, attention_multiplier=1.0, residual_multiplier=1.0, logits_scaling=1.0
    ),
    gguf=GgufGraph(
        "granite",
        permutes_rows=True,
        biases="optional",
        scales=("linear", "yarn", "llama3"),
        unsupported={"rope.scaling.finetuned": (True, "a Granite without rotation")},
    ),
)
