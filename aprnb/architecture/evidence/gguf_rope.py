"""Scaled rotation as a GGUF file states it: by keys, as llama.cpp reads them, or by tensors of factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from aprnb.architecture.evidence import rope
from aprnb.architecture.evidence.gguf_values import LINEAR, GgufKeys, Say
from aprnb.errors import ArchitectureError
from aprnb.formats.gguf.values import shortest
from aprnb.formats.metadata import same

_LLAMA3_THETA = 500_000.0
_GIVE_CONFIG = "give the model's own config with --config config.json"


def say_scaling(keys: GgufKeys, say: Say) -> None:
    """Scaled rotation as keys state it; without keys there is none, except in Llama 3.1 without its factors."""
    kind, original, factor = keys[rope.TYPE], keys[rope.ORIGINAL], _factor(keys)
    below = f"GGUF {keys.architecture}."
    if original is not None:
        say("original_max_position_embeddings", original, f"{below}{rope.ORIGINAL}")
    if kind in ("linear", "yarn"):
        if factor is None:
            raise ArchitectureError(f"RoPE scaling {kind} without a factor", where=f"{below}{rope.FACTOR}")
        say("rope_scaling", _scaling(keys, kind, factor), f"{below}{rope.TYPE}")
    elif kind is None and factor not in (None, 1.0):
        stated = rope.FACTOR if keys.number(rope.FACTOR) else LINEAR
        say("rope_scaling", {"rope_type": "linear", "factor": factor}, f"{below}{stated}")
    elif kind == "none" or (kind is None and keys["rope_theta"] not in (None, _LLAMA3_THETA)):
        say("rope_scaling", None, f"{below}{rope.TYPE} {kind or 'absent'}")
    elif kind not in (None, "longrope"):
        raise ArchitectureError(
            f"RoPE scaling {str(kind)[:40]!r} is not supported", expected="none, linear or yarn",
            where=f"{below}{rope.TYPE}", action=_GIVE_CONFIG,
        )  # fmt: skip
    attention = keys.number(rope.ATTENTION_FACTOR) or 1.0
    if attention != 1.0 and kind != "yarn" and rope.LONG not in keys.checkpoint.tensors:
        raise ArchitectureError(
            f"{keys.architecture}.{rope.ATTENTION_FACTOR} is {shortest(attention)}, RoPE scaling {kind or 'absent'}",
            expected="yarn or longrope: transformers scales queries and keys with no other",
            where=str(keys.checkpoint.path), action=_GIVE_CONFIG,
        )  # fmt: skip


def _factor(keys: GgufKeys) -> float | None:
    """The factor under its newer or older key, of which llama.cpp reads the first; raises where they disagree."""
    newer, older = keys.number(rope.FACTOR), keys.number(LINEAR)
    if newer and older and not same(newer, older):
        raise ArchitectureError(
            f"the RoPE factor is {shortest(newer)} according to {keys.architecture}.{rope.FACTOR}, "
            f"{shortest(older)} according to {keys.architecture}.{LINEAR}",
            expected="one value", where=str(keys.checkpoint.path), action=_GIVE_CONFIG,
        )  # fmt: skip
    return newer or older


def _scaling(keys: GgufKeys, kind: str, factor: float) -> dict[str, Any]:
    """Linear scaling, or yarn with what it states; GGUF's attention factor is a multiple of the usual one."""
    if kind == "linear":
        return {"rope_type": kind, "factor": factor}
    scaling = {"original_max_position_embeddings": keys[rope.ORIGINAL]}
    scaling |= {name: keys[key] for name, key in rope.YARN.items()}
    if (attention := keys.number(rope.ATTENTION_FACTOR) or 1.0) != 1.0:
        scaling["attention_factor"] = attention * rope.yarn_attention_factor(factor)
    return {"rope_type": kind, "factor": factor, **{name: v for name, v in scaling.items() if v is not None}}


def say_factors(keys: GgufKeys, say: Say) -> None:
    """Scaled rotation as tensors of one factor per frequency, which take precedence over the keys."""
    long = rope.LONG in keys.checkpoint.tensors and rope.SHORT in keys.checkpoint.tensors
    if keys[rope.TYPE] != "none" and (factor := _factor(keys)) not in (None, 1.0):
        raise ArchitectureError(
            f"rotation is scaled twice: by {rope.LONG if long else rope.FREQS} and by a factor of {factor}",
            expected="one of both", where=str(keys.checkpoint.path), action=_GIVE_CONFIG,
        )  # fmt: skip
    if rope.FREQS in keys.checkpoint.tensors:
        say("rope_scaling", _llama3(keys), f"{rope.FREQS} (llama3's factors)")
    elif long:
        say("rope_scaling", _longrope(keys), f"{rope.LONG}, {rope.SHORT}")


def _longrope(keys: GgufKeys) -> dict[str, Any]:
    """Factors for short and long texts, and the attention factor where it differs from the usual formula."""
    original = keys.number(rope.ORIGINAL)
    scaling: dict[str, Any] = {"rope_type": "longrope"}
    for name, tensor in (("long_factor", rope.LONG), ("short_factor", rope.SHORT)):
        scaling[name] = [shortest(value) for value in keys.factors(tensor)]
    if original is not None:
        scaling["original_max_position_embeddings"] = original
    stated, positions = keys.number(rope.ATTENTION_FACTOR), keys.number("max_position_embeddings")
    usual = rope.longrope_attention_factor(positions, original) if positions and original and original > 1 else stated
    if stated and usual and not same(stated, usual):
        scaling["attention_factor"] = stated
    return scaling


def _llama3(keys: GgufKeys) -> dict[str, Any]:
    """Llama 3.1's scaling, recovered from its factors, one per frequency; raises for other factors."""
    factors = keys.factors(rope.FREQS)
    scaling = {"rope_type": "llama3", "factor": float(factors.max(initial=1.0)), **rope.LLAMA3}
    stated = keys.number("rope_theta") or keys.checkpoint.metadata.get("rope_theta")
    theta = float(stated) if isinstance(stated, int | float) else 0.0
    if (
        theta <= 1
        or factors.size == 0
        or not np.allclose(factors, rope.llama3_factors(scaling, theta, 2 * len(factors)), rtol=1e-4)
    ):
        raise ArchitectureError(
            f"{rope.FREQS} holds {len(factors)} factors that are not those of a published Llama 3",
            where=str(keys.checkpoint.path), action=_GIVE_CONFIG,
        )  # fmt: skip
    return scaling
