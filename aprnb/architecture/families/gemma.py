"""Gemma: embeddings scaled by √hidden, norms that add 1 to their weight (both in the class), GeGLU.

Hugging Face files hold the norms' weight w, GGUF files w + 1: the names tell the origin.
"""

from aprnb.architecture.families.decoder import (
    ATTENTION_BIASES,
    COMMON,
    FULL_ATTENTION,
    NO_MLP_BIAS,
    NO_ROPE_SCALING,
    POSITIONS,
)
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph

GEGLU = FieldRule("hidden_act", "gelu_pytorch_tanh", "assumed", "every published checkpoint uses GELU (tanh)")

GEMMA = Family(
    model_type="gemma",
    class_name="GemmaForCausalLM",
    config_name="GemmaConfig",
    other_names=(),
    tensors=(*COMMON, *ATTENTION_BIASES),
    rules=(FULL_ATTENTION, NO_MLP_BIAS, NO_ROPE_SCALING, POSITIONS, GEGLU),
    gguf=GgufGraph("gemma", adds_one_to_norms=True, head="tied"),
)
