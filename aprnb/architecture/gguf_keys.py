"""What the keys of a GGUF file say about the architecture, in the words of a Hugging Face config.

`{arch}.…` keys are those of the GGUF specification; where llama.cpp's graph of an architecture fixes a field without a
key (layer patterns, the scale of gemma's queries) the file means what that graph computes, and the source says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aprnb.architecture.configs import from_config
from aprnb.architecture.evidence import Evidence
from aprnb.architecture.families import FAMILIES
from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint
from aprnb.formats.gguf.values import shortest

ROPE_FREQS = "rope_freqs.weight"
ROPE_LONG, ROPE_SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (ROPE_FREQS, ROPE_LONG, ROPE_SHORT)
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What every published Llama 3.1 to 3.3 has; the tensor of factors is held against it."""

MAX_FACTORS = 4096
_LLAMA3_THETA = 500_000.0

_DIRECT = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_norm": "norm_topk_prob",
    "logit_scale": "logits_scaling",
    "residual_scale": "residual_multiplier",
    "embedding_scale": "embedding_multiplier",
    "attention.scale": "attention_multiplier",
    "rope.freq_base_swa": "rope_local_base_freq",
}
"""Key under the architecture's name → field of a Hugging Face config that holds the same value."""

_FROM_GRAPH: dict[str, Mapping[str, Any]] = {
    "qwen3_moe": {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "gemma3_text": {"rope_local_base_freq": 10_000.0, "attn_logit_softcapping": None, "final_logit_softcapping": None},
}
_WINDOWED = ("gemma2", "gemma3_text", "phi3")
"""Model types whose graph attends to a window; all others see every position."""

_PATTERNS = {"gemma2": 2, "gemma3_text": 6}
_SIZES_OF_27B = {"gemma2": 46, "gemma3_text": 62}
"""Layers of the one published size whose queries are scaled by hidden size / heads in place of the head size."""


class GgufKeys:
    """The values under one architecture's name, None for what is not there; and whose they are."""

    def __init__(self, checkpoint: Checkpoint, values: Mapping[str, Any], model_type: str) -> None:
        self.checkpoint, self.model_type, self._values = checkpoint, model_type, values
        self.architecture = str(self._value("general.architecture"))

    def _value(self, key: str) -> Any:
        entry = self._values.get(key)
        return entry["v"] if isinstance(entry, Mapping) and "v" in entry else None

    def __getitem__(self, key: str) -> Any:
        return self._value(f"{self.architecture}.{key}")

    def number(self, key: str) -> float | int | None:
        """A positive number; None for anything else."""
        value = self[key]
        return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None

    def factors(self, tensor: str) -> np.ndarray:
        """The values of a tensor of RoPE factors; raises where it cannot be one."""
        entry = self.checkpoint.tensors[tensor]
        if not entry.dtype.is_float or entry.elements > MAX_FACTORS:
            raise ArchitectureError(
                f"{tensor} is {entry.dtype.name} {list(entry.shape)}", expected=f"at most {MAX_FACTORS:,} floats",
                where=str(self.checkpoint.path),
            )  # fmt: skip
        return self.checkpoint[tensor].reshape(-1)


def from_gguf(checkpoint: Checkpoint, model_type: str) -> tuple[Evidence, tuple[str, ...]]:
    """The statements of a GGUF file's keys, and the tensors that hold RoPE factors instead of weights.

    An `.apr` made of a GGUF file has no such keys, but may have kept those tensors.
    """
    factors = tuple(name for name in ROPE_TENSORS if name in checkpoint.tensors)
    values = checkpoint.metadata.get("gguf.kv")
    if checkpoint.format != "gguf" and not factors:
        return Evidence(), ()
    keys = GgufKeys(checkpoint, values if isinstance(values, Mapping) else {}, model_type)
    config: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def say(name: str, value: Any, source: str) -> None:
        config[name], sources[name] = value, source

    if checkpoint.format == "gguf":
        _say_keys(keys, say)
    if factors:
        _rope_factors(keys, say)
    evidence = from_config(config, "gguf.kv", False, FAMILIES[model_type])
    says = {name: (value, sources.get(name, where)) for name, (value, where) in evidence.says.items()}
    return Evidence(says), factors


Say = Callable[[str, Any, str], None]


def _say_keys(keys: GgufKeys, say: Say) -> None:
    for name, value in _FROM_GRAPH.get(keys.model_type, {}).items():
        say(name, value, f"llama.cpp's graph of {keys.architecture}")
    for key, name in _DIRECT.items():
        if keys[key] is not None:
            say(name, keys[key], f"GGUF {keys.architecture}.{key}")
    for derive in (_window, _layer_pattern, _query_scale, _partial_rotation, _rope_scaling):
        derive(keys, say)


def _window(keys: GgufKeys, say: Say) -> None:
    stored = keys["attention.sliding_window"]
    if stored is not None:
        say("sliding_window", stored or None, f"GGUF {keys.architecture}.attention.sliding_window")
    elif keys.model_type not in _WINDOWED:
        say("sliding_window", None, f"llama.cpp's graph of {keys.architecture}")
        say("layer_types", None, f"llama.cpp's graph of {keys.architecture}")


def _layer_pattern(keys: GgufKeys, say: Say) -> None:
    """Which layers attend to a window, and which do without rotation."""
    layers = keys["block_count"]
    if not isinstance(layers, int) or not 0 < layers <= len(keys.checkpoint.tensors):
        return
    stored = keys["attention.sliding_window_pattern"]
    if isinstance(stored, list) and len(stored) == layers and all(isinstance(one, bool) for one in stored):
        kinds = ["sliding_attention" if one else "full_attention" for one in stored]
        say("layer_types", kinds, f"GGUF {keys.architecture}.attention.sliding_window_pattern")
    elif keys.model_type in _PATTERNS:
        period = stored if isinstance(stored, int) and stored > 0 else _PATTERNS[keys.model_type]
        kinds = ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(layers)]
        say("layer_types", kinds, f"llama.cpp's graph of {keys.architecture}: every {period}th layer sees all")
    if keys.model_type == "smollm3":
        rotated = [int((layer + 1) % 4 != 0) for layer in range(layers)]
        say("no_rope_layers", rotated, "llama.cpp's graph of smollm3: every 4th layer is not rotated")


def _query_scale(keys: GgufKeys, say: Say) -> None:
    large = _SIZES_OF_27B.get(keys.model_type)
    hidden, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    head_dim = keys.number("attention.key_length")
    if large is None or not hidden or not heads or not head_dim:
        return
    scale = hidden // heads if keys["block_count"] == large else head_dim
    say("query_pre_attn_scalar", scale, f"llama.cpp's graph of {keys.architecture} with {keys['block_count']} layers")


def _partial_rotation(keys: GgufKeys, say: Say) -> None:
    rotated, head_dim = keys.number("rope.dimension_count"), keys.number("attention.key_length")
    hidden, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    if head_dim is None and hidden and heads:
        head_dim = hidden // heads
    if rotated and head_dim:
        say("partial_rotary_factor", rotated / head_dim, f"GGUF {keys.architecture}.rope.dimension_count")


def _rope_scaling(keys: GgufKeys, say: Say) -> None:
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


def _rope_factors(keys: GgufKeys, say: Say) -> None:
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
