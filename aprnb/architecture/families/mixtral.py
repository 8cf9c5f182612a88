"""Mixtral: Mistral with experts in every layer; the class normalises the routing weights of the selected experts."""

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields

_EXPERT = "block_sparse_moe.experts.{expert}"

MIXTRAL = Family(
    model_type="mixtral",
    class_name="MixtralForCausalLM",
    config_name="MixtralConfig",
    tensors=(
        *(decoder.EMBEDDING, decoder.INPUT_NORM, *decoder.ATTENTION, decoder.MLP_NORM),
        decoder.router("block_sparse_moe.gate"),
        decoder.expert(f"{_EXPERT}.w1", "ffn_gate_exps", "intermediate_size", "hidden_size", None),
        decoder.expert(f"{_EXPERT}.w3", "ffn_up_exps", "intermediate_size", "hidden_size", None),
        decoder.expert(f"{_EXPERT}.w2", "ffn_down_exps", "hidden_size", "intermediate_size", None),
        *(decoder.FINAL_NORM, decoder.HEAD),
    ),
    rules=(decoder.NO_ATTENTION_BIAS, decoder.NO_MLP_BIAS, decoder.NO_ROPE_SCALING, decoder.POSITIONS, decoder.SILU),
    fields=fields(more="num_experts num_experts_per_tok"),
    config_keys={"num_experts": "num_local_experts"},
    defaults=decoder.class_defaults(131_072, eps=1e-5, theta=1_000_000.0, sliding_window=None, num_experts_per_tok=2),
    gguf=GgufGraph("llama", permutes_rows=True, biases="optional", scales=("linear", "yarn", "llama3")),
)
