"""Mixtral: Mistral with experts in every layer; the shares of the chosen ones are normalised by the class."""

from aprnb.architecture.families.decoder import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    MLP_NORM,
    NO_ATTENTION_BIAS,
    NO_MLP_BIAS,
    NO_ROPE_SCALING,
    POSITIONS,
    SILU,
    expert,
    router,
)
from aprnb.architecture.families.family import Family, GgufGraph, fields

_EXPERT = "block_sparse_moe.experts.{expert}"

MIXTRAL = Family(
    model_type="mixtral",
    class_name="MixtralForCausalLM",
    config_name="MixtralConfig",
    other_names=(),
    tensors=(
        *(EMBEDDING, INPUT_NORM, *ATTENTION, MLP_NORM),
        router("block_sparse_moe.gate"),
        expert(f"{_EXPERT}.w1", "ffn_gate_exps", "intermediate_size", "hidden_size", None),
        expert(f"{_EXPERT}.w3", "ffn_up_exps", "intermediate_size", "hidden_size", None),
        expert(f"{_EXPERT}.w2", "ffn_down_exps", "hidden_size", "intermediate_size", None),
        *(FINAL_NORM, HEAD),
    ),
    rules=(NO_ATTENTION_BIAS, NO_MLP_BIAS, NO_ROPE_SCALING, POSITIONS, SILU),
    fields=fields(more="num_experts num_experts_per_tok"),
    config_keys={"num_experts": "num_local_experts"},
    gguf=GgufGraph("llama", permutes_rows=True, biases=True),
)
