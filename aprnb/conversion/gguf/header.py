"""An architecture in the keys of GGUF, for llama.cpp; `architecture/evidence/gguf_*.py` read them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aprnb.architecture import Architecture
from aprnb.architecture.evidence import rope
from aprnb.architecture.families import FAMILIES, GgufGraph
from aprnb.errors import OutputError
from aprnb.formats.dtypes import F32
from aprnb.formats.fields import FIELDS, LAYER_NORM_EPSILON, ROTATED_SIZE, SLIDING_WINDOW
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.gguf.writer import GgufTensor

_FIRST = ("max_position_embeddings", "hidden_size", "num_hidden_layers", "intermediate_size")
_WRITTEN = (*(FIELDS[name] for name in _FIRST), *(field for name, field in FIELDS.items() if name not in _FIRST))
"""In the order in which llama.cpp's conversion writes the keys."""


def architecture_values(architecture: Architecture) -> dict[str, GgufValue]:
    """The keys of the architecture; raises OutputError for a family or a field that GGUF cannot express."""
    graph, fields = architecture.family.gguf, architecture.fields()
    if graph.slug is None:
        raise OutputError(
            f"GGUF does not support {architecture.model_type}",
            expected=f"one of {', '.join(name for name, family in FAMILIES.items() if family.gguf.slug)}",
        )
    _require_tensors(graph, fields)
    found = {
        key: GgufValue(field.gguf_type, fields[field.name])
        for field in _WRITTEN
        if field.gguf_type and field.name not in graph.ignores and fields.get(field.name) is not None
        for key in field.gguf
    }
    if graph.layer_norm:
        found[LAYER_NORM_EPSILON] = found.pop(FIELDS["rms_norm_eps"].gguf[0])
    if graph.windowed:
        found[SLIDING_WINDOW] = GgufValue("uint32", fields["sliding_window"] or 0)
    if fields.get("rope_theta") is not None:
        rotated = int(fields["head_dim"] * (fields.get("partial_rotary_factor") or 1.0))
        found[ROTATED_SIZE] = GgufValue("uint32", rotated)
        found |= _scaling_values(fields)
    named = {f"{graph.slug}.{key}": value for key, value in found.items()}
    return {"general.architecture": GgufValue("string", graph.slug)} | named


def _require_tensors(graph: GgufGraph, fields: Mapping[str, Any]) -> None:
    """Raises for tensors that the graph does not have: llama.cpp rejects a file with them."""
    of = f"llama.cpp's graph of {graph.slug}"
    if graph.head == "tied" and not fields["tie_word_embeddings"]:
        raise OutputError(f"an untied head cannot be expressed in GGUF: {of} ties it to the embedding")
    if graph.head == "own" and fields["tie_word_embeddings"]:
        raise OutputError(f"a tied head cannot be expressed in GGUF: {of} has a separate head")
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name) and graph.biases == "none":
            raise OutputError(f"{name} of {graph.slug} cannot be expressed in GGUF: llama.cpp's graph does not have it")
        if not fields.get(name, True) and graph.biases == "required":
            raise OutputError(f"{graph.slug} without {name} cannot be expressed in GGUF: {of} has the biases")
    kind = (fields.get("rope_scaling") or {}).get("rope_type")
    if kind is not None and kind not in graph.scales:
        raise OutputError(f"RoPE scaling {kind!r} cannot be expressed in GGUF for {graph.slug}",
                          expected=f"{' or '.join(graph.scales)}: {of} computes no other")  # fmt: skip


def differences(architecture: Architecture) -> tuple[str, ...]:
    """What llama.cpp computes otherwise although the file states it, as warnings."""
    found, fields = [], architecture.fields()
    window, positions = fields.get("sliding_window"), fields["max_position_embeddings"]
    if architecture.family.gguf.ignores_window and window is not None and window < positions:
        found.append(
            f"llama.cpp ignores the sliding window of {window:,} positions of {architecture.model_type}: "
            "it computes longer texts with attention to all positions"
        )
    scaling = fields.get("rope_scaling") or {}
    if scaling.get("rope_type") == "longrope":
        original = scaling.get("original_max_position_embeddings", fields.get("original_max_position_embeddings"))
        found.append(
            f"llama.cpp chooses the RoPE factors by the size of its context, not by the length of the text: "
            f"run it with a context of at most {original:,} tokens (-c {original}) for texts that fit into that"
        )
    return tuple(found)


def without_window(lost: Sequence[str]) -> str | None:
    """What to do where only the window is lost: llama.cpp has models that ignore theirs, such as Mistral 7B v0.1."""
    if not {"sliding_window"} <= set(lost) <= {"sliding_window", "layer_types"}:
        return None
    settings = " ".join(f"--set {name}=null" for name in lost)
    return f"give {settings} to write it all the same: llama.cpp then attends to all positions, also beyond the window"


def _scaling_values(fields: Mapping[str, Any]) -> dict[str, GgufValue]:
    scaling: Mapping[str, Any] = fields.get("rope_scaling") or {"rope_type": "none"}
    kind = scaling["rope_type"]
    original = scaling.get("original_max_position_embeddings", fields.get("original_max_position_embeddings"))
    values = {} if kind in ("llama3", "longrope") else {rope.TYPE: GgufValue("string", kind)}
    if kind in ("linear", "yarn"):
        values[rope.FACTOR] = GgufValue("float32", scaling["factor"])
    if kind != "llama3" and original is not None:
        values[rope.ORIGINAL] = GgufValue("uint32", original)
    if kind == "longrope":
        values[rope.ATTENTION_FACTOR] = GgufValue("float32", longrope_factor(fields))
    if kind == "yarn":
        values |= {key: GgufValue("float32", scaling[name]) for name, key in rope.YARN.items() if name in scaling}
        if scaling.get("attention_factor"):  # GGUF has it as a multiple of the usual one
            relative = scaling["attention_factor"] / rope.yarn_attention_factor(scaling["factor"])
            values[rope.ATTENTION_FACTOR] = GgufValue("float32", relative)
    return values


def longrope_factor(fields: Mapping[str, Any]) -> float:
    """By how much LongRoPE scales queries and keys: as stated, else by the usual formula."""
    scaling = fields["rope_scaling"]
    original = scaling.get("original_max_position_embeddings", fields.get("original_max_position_embeddings"))
    stated = scaling.get("attention_factor")
    return float(stated or rope.longrope_attention_factor(fields["max_position_embeddings"], original))


def rope_tensors(architecture: Architecture) -> list[GgufTensor]:
    """The factors of scaled rotation that GGUF keeps as tensors."""
    scaling = architecture.rope_scaling or {}
    if scaling.get("rope_type") == "llama3" and architecture.rope_theta is not None:
        factors = rope.llama3_factors(scaling, architecture.rope_theta, architecture.head_dim)
        return [_vector(rope.FREQS, factors)]
    if scaling.get("rope_type") == "longrope":
        return [
            _vector(name, np.asarray(scaling[key], np.float32))
            for name, key in ((rope.LONG, "long_factor"), (rope.SHORT, "short_factor"))
        ]
    return []


def _vector(name: str, values: np.ndarray) -> GgufTensor:
    def parts() -> Iterator[bytes]:
        yield values.astype("<f4").tobytes()

    return GgufTensor(name, F32, values.shape, parts)
