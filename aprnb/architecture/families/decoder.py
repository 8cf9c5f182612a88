"""Tensors that the dense decoder families share, under their Hugging Face and GGUF names.

Shapes follow the `nn.Linear` layout [out, in]; the tables are held against the `transformers` classes in the tests.
"""

from __future__ import annotations

from aprnb.architecture.families.family import FieldRule, TensorRule

Q_ROWS, KV_ROWS = "num_attention_heads*head_dim", "num_key_value_heads*head_dim"
_LAYER, _BLOCK = "model.layers.{layer}.", "blk.{layer}."

EMBEDDING = TensorRule("model.embed_tokens.weight", "token_embd.weight", ("vocab_size", "hidden_size"), "embedding")
FINAL_NORM = TensorRule("model.norm.weight", "output_norm.weight", ("hidden_size",), "norm")
HEAD = TensorRule("lm_head.weight", "output.weight", ("vocab_size", "hidden_size"), "head")


def _linear(name: str, gguf: str, rows: str, columns: str, heads: str | None = None) -> TensorRule:
    return TensorRule(
        f"{_LAYER}{name}.weight", f"{_BLOCK}{gguf}.weight", (rows, columns), "linear", rotated_heads=heads
    )


def bias(name: str, gguf: str, size: str, when: str | None = None, heads: str | None = None) -> TensorRule:
    return TensorRule(f"{_LAYER}{name}.bias", f"{_BLOCK}{gguf}.bias", (size,), "bias", when, heads)


def norm(name: str, gguf: str, size: str = "hidden_size") -> TensorRule:
    return TensorRule(f"{_LAYER}{name}.weight", f"{_BLOCK}{gguf}.weight", (size,), "norm")


COMMON = (
    EMBEDDING,
    norm("input_layernorm", "attn_norm"),
    _linear("self_attn.q_proj", "attn_q", Q_ROWS, "hidden_size", "num_attention_heads"),
    _linear("self_attn.k_proj", "attn_k", KV_ROWS, "hidden_size", "num_key_value_heads"),
    _linear("self_attn.v_proj", "attn_v", KV_ROWS, "hidden_size"),
    _linear("self_attn.o_proj", "attn_output", "hidden_size", Q_ROWS),
    norm("post_attention_layernorm", "ffn_norm"),
    _linear("mlp.gate_proj", "ffn_gate", "intermediate_size", "hidden_size"),
    _linear("mlp.up_proj", "ffn_up", "intermediate_size", "hidden_size"),
    _linear("mlp.down_proj", "ffn_down", "hidden_size", "intermediate_size"),
    FINAL_NORM,
    HEAD,
)


def qkv_biases(when: str | None = None) -> tuple[TensorRule, ...]:
    return (
        bias("self_attn.q_proj", "attn_q", Q_ROWS, when, "num_attention_heads"),
        bias("self_attn.k_proj", "attn_k", KV_ROWS, when, "num_key_value_heads"),
        bias("self_attn.v_proj", "attn_v", KV_ROWS, when),
    )


ATTENTION_BIASES = (
    *qkv_biases("attention_bias"),
    bias("self_attn.o_proj", "attn_output", "hidden_size", "attention_bias"),
)
MLP_BIASES = (
    bias("mlp.gate_proj", "ffn_gate", "intermediate_size", "mlp_bias"),
    bias("mlp.up_proj", "ffn_up", "intermediate_size", "mlp_bias"),
    bias("mlp.down_proj", "ffn_down", "hidden_size", "mlp_bias"),
)
QK_NORMS = (norm("self_attn.q_norm", "attn_q_norm", "head_dim"), norm("self_attn.k_norm", "attn_k_norm", "head_dim"))

SILU = FieldRule("hidden_act", "silu", "assumed", "every published checkpoint uses SiLU")
NO_MLP_BIAS = FieldRule("mlp_bias", False, "certain", "the class has no MLP bias")
POSITIONS = FieldRule(
    "max_position_embeddings", 4096, "assumed", "the file names no limit; without RoPE scaling it changes no logit"
)
NO_SLIDING_WINDOW = FieldRule("sliding_window", None, "assumed", "every published checkpoint attends to all positions")
NO_ROPE_SCALING = FieldRule("rope_scaling", None, "assumed", "every published checkpoint is stored unscaled")
