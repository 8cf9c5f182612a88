"""Tensors that the dense decoder families share, under their Hugging Face and GGUF names.

Shapes follow the `nn.Linear` layout [out, in]; the tests compare the tables with the `transformers` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aprnb.architecture.families.family import FieldRule, TensorRule

Q_ROWS, KV_ROWS = "num_attention_heads*head_dim", "num_key_value_heads*head_dim"
_LAYER, _BLOCK = "model.layers.{layer}.", "blk.{layer}."
_FUSED = f"{_LAYER}self_attn.qkv_proj"

EMBEDDING = TensorRule("model.embed_tokens.weight", "token_embd.weight", ("vocab_size", "hidden_size"), "embedding")
FINAL_NORM = TensorRule("model.norm.weight", "output_norm.weight", ("hidden_size",), "norm")
HEAD = TensorRule("lm_head.weight", "output.weight", ("vocab_size", "hidden_size"), "head")


def linear(
    name: str, gguf: str, rows: str, columns: str, heads: str | None = None, fused: str | None = None, **more: Any
) -> TensorRule:
    return TensorRule(
        f"{_LAYER}{name}.weight",
        f"{_BLOCK}{gguf}.weight",
        (rows, columns),
        "linear",
        rotated_heads=heads,
        fused=fused,
        **more,
    )


def bias(
    name: str, gguf: str, size: str, when: str | None = None, heads: str | None = None, fused: str | None = None
) -> TensorRule:
    return TensorRule(f"{_LAYER}{name}.bias", f"{_BLOCK}{gguf}.bias", (size,), "bias", when, heads, fused=fused)


def norm(name: str, gguf: str, size: str = "hidden_size") -> TensorRule:
    return TensorRule(f"{_LAYER}{name}.weight", f"{_BLOCK}{gguf}.weight", (size,), "norm")


def router(name: str, layers: Callable[[Any, int], bool] | None = None) -> TensorRule:
    """The matrix that chooses among the experts."""
    rule = (f"{_LAYER}{name}.weight", f"{_BLOCK}ffn_gate_inp.weight", ("num_experts", "hidden_size"))
    return TensorRule(*rule, "router", layers=layers)


def expert(name: str, gguf: str, rows: str, columns: str, layers: Callable[[Any, int], bool] | None) -> TensorRule:
    """A matrix of each expert; `name` contains `{expert}`."""
    return TensorRule(f"{_LAYER}{name}.weight", f"{_BLOCK}{gguf}.weight", (rows, columns), "expert", layers=layers)


INPUT_NORM, MLP_NORM = norm("input_layernorm", "attn_norm"), norm("post_attention_layernorm", "ffn_norm")
ATTENTION = (
    linear("self_attn.q_proj", "attn_q", Q_ROWS, "hidden_size", "num_attention_heads", f"{_FUSED}.weight"),
    linear("self_attn.k_proj", "attn_k", KV_ROWS, "hidden_size", "num_key_value_heads", f"{_FUSED}.weight"),
    linear("self_attn.v_proj", "attn_v", KV_ROWS, "hidden_size", fused=f"{_FUSED}.weight"),
    linear("self_attn.o_proj", "attn_output", "hidden_size", Q_ROWS),
)
GATED_MLP = (
    linear("mlp.gate_proj", "ffn_gate", "intermediate_size", "hidden_size"),
    linear("mlp.up_proj", "ffn_up", "intermediate_size", "hidden_size"),
    linear("mlp.down_proj", "ffn_down", "hidden_size", "intermediate_size"),
)
COMMON = (EMBEDDING, INPUT_NORM, *ATTENTION, MLP_NORM, *GATED_MLP, FINAL_NORM, HEAD)


def qkv_biases(when: str | None = None) -> tuple[TensorRule, ...]:
    return (
        bias("self_attn.q_proj", "attn_q", Q_ROWS, when, "num_attention_heads", f"{_FUSED}.bias"),
        bias("self_attn.k_proj", "attn_k", KV_ROWS, when, "num_key_value_heads", f"{_FUSED}.bias"),
        bias("self_attn.v_proj", "attn_v", KV_ROWS, when, fused=f"{_FUSED}.bias"),
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
NO_ATTENTION_BIAS = FieldRule("attention_bias", False, "certain", "the class has no attention bias")
NO_MLP_BIAS = FieldRule("mlp_bias", False, "certain", "the class has no MLP bias")
POSITIONS = FieldRule(
    "max_position_embeddings", 4096, "assumed", "the file states no limit; it has no effect without RoPE scaling"
)
NO_SLIDING_WINDOW = FieldRule("sliding_window", None, "assumed", "every published checkpoint attends to all positions")
FULL_ATTENTION = FieldRule("sliding_window", None, "certain", "the class attends to all positions")
NO_ROPE_SCALING = FieldRule("rope_scaling", None, "assumed", "every published checkpoint is stored unscaled")
NO_LAYER_TYPES = FieldRule(
    "layer_types", None, "certain", "without a window all layers are equal", lambda s: s.get("sliding_window") is None
)
HEAD_DIM = FieldRule(
    "head_dim",
    lambda settled: settled["hidden_size"] // settled["num_attention_heads"],
    "certain",
    "the class divides the hidden size by the heads",
    lambda settled: "hidden_size" in settled and "num_attention_heads" in settled,
)


def class_defaults(
    positions: int, *, heads: int = 32, eps: float = 1e-6, theta: float = 10_000.0, act: str = "silu",
    tied: bool = False, **more: Any,
) -> Mapping[str, Any]:  # fmt: skip
    """`Family.defaults` of a decoder with rotation, unscaled; `more` are fields of its own."""
    common = {"num_attention_heads": heads, "max_position_embeddings": positions, "rms_norm_eps": eps}
    return {
        **common, "rope_theta": theta, "rope_scaling": None, "hidden_act": act, "tie_word_embeddings": tied, **more
    }  # fmt: skip


def windowed_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen's classes: layers from `max_window_layers` on attend to the window, where there is one."""
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
    layers, first = config.get("num_hidden_layers"), config.get("max_window_layers", 28)
    if window is None:
        return {"layer_types": None}
    if not isinstance(layers, int) or not isinstance(first, int):
        return {}
    return {
        "sliding_window": window,
        "layer_types": ["sliding_attention" if n >= first else "full_attention" for n in range(layers)],
    }


def partly_windowed(period: int, full_at: int) -> Callable[[int], list[str]]:
    """Layer kinds that repeat: every `period` layers the one at `full_at` attends to all positions."""
    return lambda count: [
        "full_attention" if number % period == full_at else "sliding_attention" for number in range(count)
    ]
