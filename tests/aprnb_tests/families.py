"""Tiny models of every family, each extra field of its forward pass away from the class's default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "long_factor": [2.0, 3.0, 4.0, 5.0],
    "short_factor": [1.1, 1.2, 1.3, 1.4], "original_max_position_embeddings": 16,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 2e4}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e4},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
}

SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"head_dim": 24, "attention_bias": True},
    "qwen3_moe": {
        "head_dim": 24, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [0],
    },
    "gemma": {"head_dim": 24},
    "gemma2": {
        "head_dim": 24, "query_pre_attn_scalar": 100, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        "sliding_window": 5,
    },
    "gemma3_text": {
        "head_dim": 24, "query_pre_attn_scalar": 100, "sliding_window": 5, "rope_parameters": GEMMA3_ROPE,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16, "sliding_window": 9},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True, "n_inner": 96},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    "olmo2": {},
    "granite": {
        "embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5, "logits_scaling": 2.0,
        "mlp_bias": True,
    },
    "smollm3": {"no_rope_layers": [0, 1, 1], "attention_bias": True},
    "starcoder2": {"use_bias": True, "sliding_window": 5},
}  # fmt: skip
NEEDED: dict[str, tuple[str, ...]] = {
    "mistral": ("sliding_window",),
    "qwen3_moe": ("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"),
    "gemma2": ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "sliding_window"),
    "gemma3_text": ("query_pre_attn_scalar", "sliding_window", "rope_parameters"),
    "phi3": ("sliding_window", "rope_parameters"),
    "mixtral": ("sliding_window", "num_experts_per_tok"),
    "granite": ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"),
    "starcoder2": ("sliding_window",),
}
"""Config keys without which the forward pass is not settled."""

PUBLISHED_LLAMA3 = {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 8192}
IN_GGUF: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": PUBLISHED_LLAMA3, "max_position_embeddings": 16384},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"attention_bias": False},
    "qwen3_moe": {"mlp_only_layers": []},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"query_pre_attn_scalar": 24, "tie_word_embeddings": True},
    "gemma3_text": {"query_pre_attn_scalar": 24, "layer_types": ["sliding_attention"] * 3},
    "phi3": {},
    "gpt2": {"scale_attn_by_inverse_layer_idx": False},
    "granite": {},
    "olmo2": {"tie_word_embeddings": False},
    "mixtral": {"sliding_window": None},
    "smollm3": {"no_rope_layers": [1, 1, 1], "attention_bias": False},
    "starcoder2": {"sliding_window": None},
}
"""Where llama.cpp's graphs compute less than `SPECIAL` asks for, as its source states it (llama-model.cpp)."""


def config(family: str, size: int = 1, vocabulary: int = 128, changes: Mapping[str, Any] | None = None) -> Any:
    """The transformers config of a tiny model; size 2 is twice as wide and ties its head the other way."""
    from aprnb.architecture import FAMILIES

    table = FAMILIES[family]
    common: dict[str, Any] = {
        "vocab_size": vocabulary * size, "hidden_size": 64 * size, "intermediate_size": 96 * size,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rope_parameters": PLAIN,
        "tie_word_embeddings": size == 2, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None,
    }  # fmt: skip
    if family == "gpt2":
        common = {"n_embd": 64 * size, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": vocabulary * size}
        common |= {"bos_token_id": 0, "eos_token_id": 1}
    special = dict(SPECIAL[family])
    if family == "phi3" and size == 2:
        special["rope_parameters"] = {**LONGROPE, "long_factor": [2.0] * 8, "short_factor": [1.5] * 8}
    special["attn_implementation"] = table.attention  # some versions offer one that leaves soft caps out
    return getattr(transformers, table.config_name)(**{**common, **special, **(changes or {})})


def saved(
    family: str, folder: Path, size: int = 1, vocabulary: int = 128, spread: float = 0.15,
    changes: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """A model with seeded weights, at `spread` 0.15 large enough that every field moves its logits, in `folder`."""
    from aprnb.architecture import FAMILIES

    torch.manual_seed(3)
    model = getattr(transformers, FAMILIES[family].class_name)(config(family, size, vocabulary, changes)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * spread)
    model.save_pretrained(folder)
    return model
