"""Gemma: embeddings scaled by √hidden, norms that add 1 to their weight (both in the class), GeGLU.

Hugging Face files hold the norms' weight w, GGUF files w + 1; the tensor names show the origin.
"""

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph

GEGLU = FieldRule("hidden_act", "gelu_pytorch_tanh", "assumed", "every published checkpoint uses GELU (tanh)")

GEMMA = Family(
    model_type="gemma",
    exceeds_float16=True,
    class_name="GemmaForCausalLM",
    config_name="GemmaConfig",
    tensors=(*decoder.COMMON, *decoder.ATTENTION_BIASES),
    rules=(decoder.FULL_ATTENTION, decoder.NO_MLP_BIAS, decoder.NO_ROPE_SCALING, decoder.POSITIONS, GEGLU),
    defaults=decoder.class_defaults(8192, heads=16, act="gelu_pytorch_tanh", tied=True),
    gguf=GgufGraph("gemma", adds_one_to_norms=True, head="tied"),
)
