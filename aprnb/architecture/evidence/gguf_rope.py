"""Scaled rotation in GGUF: a few keys, and tensors with one factor for each frequency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aprnb.architecture.evidence.gguf_values import GgufKeys, Say
from aprnb.errors import ArchitectureError
from aprnb.formats.gguf.values import shortest

ROPE_FREQS = "rope_freqs.weight"
ROPE_LONG, ROPE_SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (ROPE_FREQS, ROPE_LONG, ROPE_SHORT)
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What every published Llama 3.1 to 3.3 has; the tensor of factors is held against it."""

_LLAMA3_THETA = 500_000.0


def say_rope_scaling(keys: GgufKeys, say: Say) -> None:
    """Scaled rotation in the keys' words; none where they are silent, but for Llama 3.1 without its factors."""
    kind, original = keys["rope.scaling.type"], keys["rope.scaling.original_context_length"]
    source = f"GGUF {keys.architecture}.rope.scaling"
    if original is not None:
        say("original_max_position_embeddings", original, f"{source}.original_context_length")
    if kind in ("linear", "yarn"):
        scaling = {"rope_type": kind, "factor": keys.number("rope.scaling.factor")}
        extras = {"original_max_position_embeddings": original, "beta_fast": keys["rope.scaling.yarn_beta_fast"],
                  "beta_slow": keys["rope.scaling.yarn_beta_slow"]} if kind == "yarn" else {}  # fmt: skip
        if scaling["factor"] is None:
            raise ArchitectureError(f"RoPE scaling {kind} without a factor", where=f"{source}.factor")
        say("rope_scaling", scaling | {name: value for name, value in extras.items() if value is not None}, source)
    elif keys.number("rope.scale_linear") not in (None, 1.0):
        scaling = {"rope_type": "linear", "factor": keys.number("rope.scale_linear")}
        say("rope_scaling", scaling, f"GGUF {keys.architecture}.rope.scale_linear")
    elif kind == "none" or (kind is None and keys["rope.freq_base"] not in (None, _LLAMA3_THETA)):
        say("rope_scaling", None, f"{source}.type {kind or 'absent'}")
    elif kind not in (None, "longrope"):
        raise ArchitectureError(
            f"RoPE scaling {str(kind)[:40]!r} is not known here", expected="none, linear or yarn",
            where=f"{source}.type", action="give the model's own config with --config config.json",
        )  # fmt: skip


def say_rope_factors(keys: GgufKeys, say: Say) -> None:
    """Scaled rotation as tensors of one factor per frequency, which say more than the keys."""
    if ROPE_FREQS in keys.checkpoint.tensors:
        say("rope_scaling", _llama3(keys), f"{ROPE_FREQS} (llama3's factors)")
    elif ROPE_LONG in keys.checkpoint.tensors and ROPE_SHORT in keys.checkpoint.tensors:
        say("rope_scaling", _longrope(keys), f"{ROPE_LONG}, {ROPE_SHORT}")


def _longrope(keys: GgufKeys) -> dict[str, Any]:
    """Factors for short and long texts, and how much attention is scaled where that is not the usual formula."""
    original = keys.number("rope.scaling.original_context_length")
    scaling: dict[str, Any] = {"rope_type": "longrope"}
    for name, tensor in (("long_factor", ROPE_LONG), ("short_factor", ROPE_SHORT)):
        scaling[name] = [shortest(value) for value in keys.factors(tensor)]
    if original is not None:
        scaling["original_max_position_embeddings"] = original
    stated, positions = keys.number("rope.scaling.attn_factor"), keys.number("context_length")
    usual = longrope_attention_factor(positions, original) if positions and original and original > 1 else stated
    if stated and usual and abs(stated - usual) > 1e-5:
        scaling["attention_factor"] = stated
    return scaling


def _llama3(keys: GgufKeys) -> dict[str, Any]:
    """Llama 3.1's scaling out of its factors, one per frequency; raises where they are of another kind."""
    factors = keys.factors(ROPE_FREQS)
    scaling = {"rope_type": "llama3", "factor": float(factors.max(initial=1.0)), **LLAMA3}
    stated = keys.number("rope.freq_base") or keys.checkpoint.metadata.get("rope_theta")
    theta = float(stated) if isinstance(stated, int | float) else 0.0
    if (
        theta <= 1
        or factors.size == 0
        or not np.allclose(factors, llama3_factors(scaling, theta, 2 * len(factors)), rtol=1e-4)
    ):
        raise ArchitectureError(
            f"{ROPE_FREQS} holds {len(factors)} factors that are not those of a published Llama 3",
            where=str(keys.checkpoint.path), action="give the model's own config with --config config.json",
        )  # fmt: skip
    return scaling


def llama3_factors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> np.ndarray:
    """By what each of head_dim/2 frequencies is divided: 1 for short waves, `factor` for long ones, smooth between.

    The formula is that of the Llama 3.1 release (`transformers` ROPE_INIT_FUNCTIONS["llama3"]).
    """
    waves = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    original = scaling["original_max_position_embeddings"]
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    result: np.ndarray = 1 / ((1 - smooth) / factor + smooth)
    return result.astype(np.float32)


def longrope_attention_factor(positions: float, original: float) -> float:
    """By what LongRoPE scales queries and keys (`transformers` ROPE_INIT_FUNCTIONS["longrope"])."""
    scale = positions / original
    return 1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(original))
