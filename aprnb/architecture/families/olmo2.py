"""OLMo 2: norms after attention and MLP instead of before, and over all queries and keys at once."""

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph

OLMO2 = Family(
    model_type="olmo2",
    class_name="Olmo2ForCausalLM",
    config_name="Olmo2Config",
    tensors=(
        *(decoder.EMBEDDING, *decoder.ATTENTION, *decoder.ATTENTION_BIASES),
        decoder.norm("self_attn.q_norm", "attn_q_norm", decoder.Q_ROWS),
        decoder.norm("self_attn.k_norm", "attn_k_norm", decoder.KV_ROWS),
        decoder.norm("post_attention_layernorm", "post_attention_norm"),
        decoder.norm("post_feedforward_layernorm", "post_ffw_norm"),
        *(*decoder.GATED_MLP, decoder.FINAL_NORM, decoder.HEAD),
    ),
    rules=(decoder.FULL_ATTENTION, decoder.NO_MLP_BIAS, decoder.NO_ROPE_SCALING, decoder.POSITIONS, decoder.SILU),
    defaults=decoder.class_defaults(2048, eps=1e-5),
    gguf=GgufGraph(
        "olmo2",
        head="own",
        unsupported={"attention.sliding_window": (0, "OLMo 3, most of whose layers attend to a window")},
    ),
)
