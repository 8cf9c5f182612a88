"""Scaled rotation: its formulas, its keys in GGUF, and the GGUF tensors with one factor for each frequency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = (FREQS, LONG, SHORT)
TYPE, FACTOR, ORIGINAL = "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"
ATTENTION_FACTOR = "rope.scaling.attn_factor"
YARN = {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}
"""Entry of `rope_scaling` → its GGUF key."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What every published Llama 3.1 to 3.3 has; the tensor of factors is compared with it."""


def llama3_factors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> np.ndarray:
    """The divisor of each of head_dim/2 frequencies: 1 for short waves, `factor` for long ones, smooth between.

    The formula is that of the Llama 3.1 release (`transformers` ROPE_INIT_FUNCTIONS["llama3"]).
    """
    waves = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    original = scaling["original_max_position_embeddings"]
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    result: np.ndarray = 1 / ((1 - smooth) / factor + smooth)
    return result.astype(np.float32)


def longrope_attention_factor(positions: float, original: float) -> float:
    """The factor by which LongRoPE scales queries and keys (`transformers` ROPE_INIT_FUNCTIONS["longrope"])."""
    scale = positions / original
    return 1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(original))


def yarn_attention_factor(factor: float) -> float:
    """The factor by which YaRN scales queries and keys (`transformers` ROPE_INIT_FUNCTIONS["yarn"])."""
    return 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
