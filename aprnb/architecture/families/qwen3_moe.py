"""Qwen3 with experts: a router picks `num_experts_per_tok` of them in every sparse layer.

Sparse are the layers of `decoder_sparse_step`, but for `mlp_only_layers` (Qwen3MoeDecoderLayer). No `.apr` metadata
says so, nor whether the chosen experts' shares are normalised: that must be given.
"""

from typing import Any

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields


def is_sparse(architecture: Any, layer: int) -> bool:
    extra = architecture.extra
    return layer not in extra["mlp_only_layers"] and (layer + 1) % extra["decoder_sparse_step"] == 0


def _is_dense(architecture: Any, layer: int) -> bool:
    return not is_sparse(architecture, layer)


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    class_name="Qwen3MoeForCausalLM",
    config_name="Qwen3MoeConfig",
    other_names=("qwen3moe",),
    tensors=(
        decoder.EMBEDDING,
        decoder.INPUT_NORM,
        *decoder.ATTENTION,
        *decoder.QK_NORMS,
        *decoder.ATTENTION_BIASES,
        decoder.MLP_NORM,
        decoder.router("mlp.gate", is_sparse),
        decoder.expert(
            "mlp.experts.{expert}.gate_proj", "ffn_gate_exps", "moe_intermediate_size", "hidden_size", is_sparse
        ),
        decoder.expert(
            "mlp.experts.{expert}.up_proj", "ffn_up_exps", "moe_intermediate_size", "hidden_size", is_sparse
        ),
        decoder.expert(
            "mlp.experts.{expert}.down_proj", "ffn_down_exps", "hidden_size", "moe_intermediate_size", is_sparse
        ),
        decoder.linear("mlp.gate_proj", "ffn_gate", "intermediate_size", "hidden_size", layers=_is_dense),
        decoder.linear("mlp.up_proj", "ffn_up", "intermediate_size", "hidden_size", layers=_is_dense),
        decoder.linear("mlp.down_proj", "ffn_down", "hidden_size", "intermediate_size", layers=_is_dense),
        *(decoder.FINAL_NORM, decoder.HEAD),
    ),
    rules=(decoder.NO_MLP_BIAS, decoder.NO_SLIDING_WINDOW, decoder.NO_ROPE_SCALING, decoder.POSITIONS, decoder.SILU),
    fields=fields(
        more="num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers"
    ),
    config_keys={"num_experts": "num_local_experts"},
    defaults=decoder.class_defaults(
        32_768,
        sliding_window=None,
        num_experts_per_tok=8,
        norm_topk_prob=False,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
    window_switch=True,
    certain_chat_template="chatml",
    pre_tokenizer=("qwen2", False),
    gguf=GgufGraph("qwen3moe", fixed={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}),
)
