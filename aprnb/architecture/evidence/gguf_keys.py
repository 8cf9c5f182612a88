"""What the keys of a GGUF file state about the architecture, as a Hugging Face config.

`{arch}.…` keys are those of the GGUF specification; where llama.cpp's graph of an architecture fixes a field without a
key (layer patterns, the scale of gemma's queries) the file means what that graph computes, and the source names it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aprnb.architecture.evidence import rope
from aprnb.architecture.evidence.configs import from_config
from aprnb.architecture.evidence.evidence import Evidence
from aprnb.architecture.evidence.gguf_rope import say_factors, say_scaling
from aprnb.architecture.evidence.gguf_values import PATTERN, GgufKeys, Say
from aprnb.architecture.families import Family
from aprnb.architecture.families.decoder import partly_windowed
from aprnb.formats import Checkpoint
from aprnb.formats.fields import FIELDS, ROTATED_SIZE, SLIDING_WINDOW, STANDARD


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
            say_scaling(keys, say)
    if factors and "rope_scaling" not in given:
        say_factors(keys, say)
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
