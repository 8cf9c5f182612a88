"""What the keys of a GGUF file state about the architecture, as a Hugging Face config.

`{arch}.…` keys are those of the GGUF specification; where llama.cpp's graph of an architecture fixes a field without a
key (layer patterns, the scale of gemma's queries) the file means what that graph computes, and the source names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aprnb.architecture.evidence import rope
from aprnb.architecture.evidence.configs import from_config
from aprnb.architecture.evidence.evidence import Evidence
from aprnb.architecture.families import Family
from aprnb.architecture.families.decoder import partly_windowed
from aprnb.errors import ArchitectureError
from aprnb.formats import Checkpoint
from aprnb.formats.fields import FIELDS, ROTATED_SIZE, SLIDING_WINDOW, STANDARD
from aprnb.formats.gguf.values import shortest
from aprnb.formats.metadata import same

MAX_FACTORS = 4096
_LLAMA3_THETA = 500_000.0
PATTERN, LINEAR = "attention.sliding_window_pattern", "rope.scale_linear"

Say = Callable[[str, Any, str], None]
"""Called with a field, its value and what states it."""


class GgufKeys:
    """One file's values, None for an absent one, and the family that it is of."""

    def __init__(self, checkpoint: Checkpoint, family: Family) -> None:
        values = checkpoint.metadata.get("gguf.kv")
        self._values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        self.checkpoint, self.family, self.graph = checkpoint, family, family.gguf
        self.architecture = str(self._value("general.architecture"))

    def _value(self, key: str) -> Any:
        entry = self._values.get(key)
        return entry["v"] if isinstance(entry, Mapping) and "v" in entry else None

    def __getitem__(self, name: str) -> Any:
        """The value of a field, or of a key below the architecture's name."""
        return self._value(f"{self.architecture}.{FIELDS[name].gguf[0] if name in FIELDS else name}")

    def names(self) -> list[str]:
        """Every key below the architecture's name, without it."""
        below = f"{self.architecture}."
        return [key.removeprefix(below) for key in self._values if key.startswith(below)]

    def number(self, name: str) -> float | int | None:
        """A positive number; None for anything else."""
        value = self[name]
        return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None

    def factors(self, tensor: str) -> np.ndarray:
        """The values of a tensor of RoPE factors; raises for one with another dtype or too many elements."""
        entry = self.checkpoint.tensors[tensor]
        if not entry.dtype.is_float or entry.elements > MAX_FACTORS:
            raise ArchitectureError(
                f"{tensor} is {entry.dtype.name} {list(entry.shape)}", expected=f"at most {MAX_FACTORS:,} floats",
                where=str(self.checkpoint.path),
            )  # fmt: skip
        return self.checkpoint[tensor].reshape(-1)


def from_gguf(checkpoint: Checkpoint, family: Family, given: Collection[str] = ()) -> tuple[Evidence, tuple[str, ...]]:
    """The statements of a GGUF file's keys, and the tensors that hold RoPE factors instead of weights.

    Scaled rotation that a person has `given` is not read: it may be of a kind that keys and tensors do not tell.
    An `.apr` made of a GGUF file has no such keys, but may have kept those tensors.
    """
    factors = tuple(name for name in rope.TENSORS if name in checkpoint.tensors)
    if checkpoint.format != "gguf" and not factors:
        return Evidence(), ()
    keys = GgufKeys(checkpoint, family)
    config: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def say(name: str, value: Any, source: str) -> None:
        config[name], sources[name] = value, source

    if checkpoint.format == "gguf":
        _say_keys(keys, say)
        if "rope_scaling" not in given:
            _rope_scaling(keys, say)
    if factors and "rope_scaling" not in given:
        _rope_factors(keys, say)
    evidence = from_config(config, "gguf.kv", False, family)
    says = {name: (value, sources.get(name, where)) for name, (value, where) in evidence.says.items()}
    return Evidence(says), factors


def _say_keys(keys: GgufKeys, say: Say) -> None:
    for name, value in keys.graph.fixed.items():
        say(name, value, f"llama.cpp's graph of {keys.architecture}")
    for name, field in FIELDS.items():
        if field.gguf and name not in (*STANDARD, *keys.graph.ignores) and keys[name] is not None:
            say(name, keys[name], f"GGUF {keys.architecture}.{field.gguf[0]}")
    for derive in (_window, _layer_pattern, _query_scale, _partial_rotation):
        derive(keys, say)


def _window(keys: GgufKeys, say: Say) -> None:
    stored = keys[SLIDING_WINDOW]
    if stored is not None:
        say("sliding_window", stored or None, f"GGUF {keys.architecture}.{SLIDING_WINDOW}")
    elif not keys.graph.windowed:
        say("sliding_window", None, f"llama.cpp's graph of {keys.architecture}")
        say("layer_types", None, f"llama.cpp's graph of {keys.architecture}")


def _layer_pattern(keys: GgufKeys, say: Say) -> None:
    """Which layers attend to a window, and which do without rotation."""
    layers = keys["num_hidden_layers"]
    if not isinstance(layers, int) or not 0 < layers <= len(keys.checkpoint.tensors):
        return
    stored = keys[PATTERN]
    if isinstance(stored, list) and len(stored) == layers and all(isinstance(one, bool) for one in stored):
        kinds = ["sliding_attention" if one else "full_attention" for one in stored]
        say("layer_types", kinds, f"GGUF {keys.architecture}.{PATTERN}")
    elif keys.graph.full_attention_every:
        period = stored if isinstance(stored, int) and stored > 0 else keys.graph.full_attention_every
        kinds = partly_windowed(period, period - 1)(layers)
        why = f"llama.cpp's graph of {keys.architecture}: every {period}th layer attends to all positions"
        say("layer_types", kinds, why)
    if interval := keys.graph.unrotated_every:
        rotated = [int((layer + 1) % interval != 0) for layer in range(layers)]
        why = f"llama.cpp's graph of {keys.architecture}: every {interval}th layer is not rotated"
        say("no_rope_layers", rotated, why)


def _query_scale(keys: GgufKeys, say: Say) -> None:
    large, layers = keys.graph.layers_of_27b, keys["num_hidden_layers"]
    hidden, heads = keys.number("hidden_size"), keys.number("num_attention_heads")
    head_dim = keys.number("head_dim")
    if large is None or not hidden or not heads or not head_dim:
        return
    scale = hidden // heads if layers == large else head_dim
    say("query_pre_attn_scalar", scale, f"llama.cpp's graph of {keys.architecture} with {layers} layers")


def _partial_rotation(keys: GgufKeys, say: Say) -> None:
    rotated, head_dim = keys.number(ROTATED_SIZE), keys.number("head_dim")
    hidden, heads = keys.number("hidden_size"), keys.number("num_attention_heads")
    if head_dim is None and hidden and heads:
        head_dim = hidden // heads
    if rotated and head_dim:
        say("partial_rotary_factor", rotated / head_dim, f"GGUF {keys.architecture}.{ROTATED_SIZE}")


def _rope_scaling(keys: GgufKeys, say: Say) -> None:
    """Scaled rotation as keys state it; without keys there is none, except in Llama 3.1 without its factors."""
    kind, original = keys[rope.TYPE], keys[rope.ORIGINAL]
    below = f"GGUF {keys.architecture}."
    if original is not None:
        say("original_max_position_embeddings", original, f"{below}{rope.ORIGINAL}")
    if kind in ("linear", "yarn"):
        scaling: dict[str, Any] = {"rope_type": kind, "factor": keys.number(rope.FACTOR)}
        yarn = {name: keys[key] for name, key in rope.YARN.items()}
        extras = {"original_max_position_embeddings": original, **yarn} if kind == "yarn" else {}
        if scaling["factor"] is None:
            raise ArchitectureError(f"RoPE scaling {kind} without a factor", where=f"{below}{rope.FACTOR}")
        scaling |= {name: value for name, value in extras.items() if value is not None}
        say("rope_scaling", scaling, f"{below}rope.scaling")
    elif keys.number(LINEAR) not in (None, 1.0):
        scaling = {"rope_type": "linear", "factor": keys.number(LINEAR)}
        say("rope_scaling", scaling, f"{below}{LINEAR}")
    elif kind == "none" or (kind is None and keys["rope_theta"] not in (None, _LLAMA3_THETA)):
        say("rope_scaling", None, f"{below}{rope.TYPE} {kind or 'absent'}")
    elif kind not in (None, "longrope"):
        raise ArchitectureError(
            f"RoPE scaling {str(kind)[:40]!r} is not supported", expected="none, linear or yarn",
            where=f"{below}{rope.TYPE}", action="give the model's own config with --config config.json",
        )  # fmt: skip


def _rope_factors(keys: GgufKeys, say: Say) -> None:
    """Scaled rotation as tensors of one factor per frequency, which take precedence over the keys."""
    if rope.FREQS in keys.checkpoint.tensors:
        say("rope_scaling", _llama3(keys), f"{rope.FREQS} (llama3's factors)")
    elif rope.LONG in keys.checkpoint.tensors and rope.SHORT in keys.checkpoint.tensors:
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
            where=str(keys.checkpoint.path), action="give the model's own config with --config config.json",
        )  # fmt: skip
    return scaling
