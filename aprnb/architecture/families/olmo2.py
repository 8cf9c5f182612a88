"""OLMo 2: norms behind attention and MLP in place of before, and over all queries and keys at once."""

from aprnb.architecture.families.decoder import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    FINAL_NORM,
    FULL_ATTENTION,
    GATED_MLP,
    HEAD,
    KV_ROWS,
    NO_MLP_BIAS,
    NO_ROPE_SCALING,
    POSITIONS,
    Q_ROWS,
    SILU,
    norm,
)
from aprnb.architecture.families.family import Family, GgufGraph

OLMO2 = Family(
    model_type="olmo2",
    class_name="Olmo2ForCausalLM",
    config_name="Olmo2Config",
    other_names=(),
    tensors=(
        *(EMBEDDING, *ATTENTION, *ATTENTION_BIASES),
        norm("self_attn.q_norm", "attn_q_norm", Q_ROWS),
        norm("self_attn.k_norm", "attn_k_norm", KV_ROWS),
        norm("post_attention_layernorm", "post_attention_norm"),
        norm("post_feedforward_layernorm", "post_ffw_norm"),
        *(*GATED_MLP, FINAL_NORM, HEAD),
    ),
    rules=(FULL_ATTENTION, NO_MLP_BIAS, NO_ROPE_SCALING, POSITIONS, SILU),
    gguf=GgufGraph("olmo2", head="own"),
)
