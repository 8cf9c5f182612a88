"""A checkpoint of 300 MB that takes no room on the disk: zeros, which are read and encoded like any values."""

from __future__ import annotations

from math import prod
from pathlib import Path

from aprnb_tests.apr_bytes import sparse_file

ROWS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 32_768, 2_048, 4_096, 32, 16, 64
LARGEST_BYTES = 2 * ROWS * HIDDEN
"""The embedding, in BF16."""
_BF16 = 30


def large_qwen3(path: Path) -> Path:
    """Two layers whose embedding takes 134 MB; the head is tied to it."""
    projections = {
        "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }
    norms = {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN}
    norms |= {"self_attn.q_norm": HEAD_DIM, "self_attn.k_norm": HEAD_DIM}
    each = {**projections, **{name: (size,) for name, size in norms.items()}}
    shapes = {f"model.layers.{layer}.{name}.weight": shape for layer in range(2) for name, shape in each.items()}
    shapes |= {"model.embed_tokens.weight": (ROWS, HIDDEN), "model.norm.weight": (HIDDEN,)}
    stated = {
        "architecture": "qwen3", "model_type": "qwen3", "hidden_size": HIDDEN, "num_layers": 2, "num_heads": HEADS,
        "num_kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": ROWS, "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 512, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    return sparse_file(path, stated, [(name, _BF16, shape, 2 * prod(shape)) for name, shape in shapes.items()])
