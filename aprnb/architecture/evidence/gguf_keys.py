"""What the keys of a GGUF file state about the architecture, in the words of a Hugging Face config.

`{arch}.…` keys are those of the GGUF specification; where llama.cpp's graph of an architecture fixes a field without a
key (layer patterns, the scale of gemma's queries) the file means what that graph computes, and the source names it.
"""

from __future__ import annotations

from typing import Any

from aprnb.architecture.evidence.configs import from_config
from aprnb.architecture.evidence.evidence import Evidence
from aprnb.architecture.evidence.gguf_rope import ROPE_TENSORS, say_rope_factors, say_rope_scaling
from aprnb.architecture.evidence.gguf_values import GgufKeys, Say
from aprnb.architecture.families import Family
from aprnb.formats import Checkpoint
from aprnb.formats.fields import FIELDS, STANDARD


def from_gguf(checkpoint: Checkpoint, family: Family) -> tuple[Evidence, tuple[str, ...]]:
    """The statements of a GGUF file's keys, and the tensors that hold RoPE factors instead of weights.

    An `.apr` made of a GGUF file has no such keys, but may have kept those tensors.
    """
    factors = tuple(name for name in ROPE_TENSORS if name in checkpoint.tensors)
    if checkpoint.format != "gguf" and not factors:
        return Evidence(), ()
    keys = GgufKeys(checkpoint, family)
    config: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def say(name: str, value: Any, source: str) -> None:
        config[name], sources[name] = value, source

    if checkpoint.format == "gguf":
        _say_keys(keys, say)
    if factors:
        say_rope_factors(keys, say)
    evidence = from_config(config, "gguf.kv", False, family)
    says = {name: (value, sources.get(name, where)) for name, (value, where) in evidence.says.items()}
    return Evidence(says), factors


def _say_keys(keys: GgufKeys, say: Say) -> None:
    for name, value in keys.graph.fixed.items():
        say(name, value, f"llama.cpp's graph of {keys.architecture}")
    for name, field in FIELDS.items():
        if field.gguf and name not in STANDARD and keys[field.gguf[0]] is not None:
            say(name, keys[field.gguf[0]], f"GGUF {keys.architecture}.{field.gguf[0]}")
    for derive in (_window, _layer_pattern, _query_scale, _partial_rotation, say_rope_scaling):
        derive(keys, say)


def _window(keys: GgufKeys, say: Say) -> None:
    stored = keys["attention.sliding_window"]
    if stored is not None:
        say("sliding_window", stored or None, f"GGUF {keys.architecture}.attention.sliding_window")
    elif not keys.graph.windowed:
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
    elif keys.graph.full_attention_every:
        period = stored if isinstance(stored, int) and stored > 0 else keys.graph.full_attention_every
        kinds = ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(layers)]
        say("layer_types", kinds, f"llama.cpp's graph of {keys.architecture}: every {period}th layer sees all")
    if interval := keys.graph.unrotated_every:
        rotated = [int((layer + 1) % interval != 0) for layer in range(layers)]
        why = f"llama.cpp's graph of {keys.architecture}: every {interval}th layer is not rotated"
        say("no_rope_layers", rotated, why)


def _query_scale(keys: GgufKeys, say: Say) -> None:
    large = keys.graph.layers_of_27b
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
