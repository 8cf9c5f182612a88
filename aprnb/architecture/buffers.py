"""Buffers that older versions of `transformers` stored with the weights: RoPE's frequencies and tables, masks.

The model classes compute them and do not load them (`_keys_to_ignore_on_load_unexpected`), so they are not weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aprnb.architecture.names import layer_of
from aprnb.formats import Checkpoint
from aprnb.printable import shown_name

_LAYER = "(?:0|[1-9][0-9]{0,5})"
_ROTARY = re.compile(rf"(?:model\.)?(?:layers\.{_LAYER}\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
_GPT2 = re.compile(rf"(?:transformer\.)?h\.{_LAYER}\.attn\.(bias|masked_bias)")
"""`attn.bias` is the causal mask; the biases that are weights are `attn.c_attn.bias` and `attn.c_proj.bias`."""


def is_buffer_name(name: str) -> bool:
    """Whether a stored buffer would have this name; no family has a weight of such a name."""
    return _kind(name) is not None


def stored_buffers(checkpoint: Checkpoint, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The tensors that are buffers of the model by name, layer and shape."""
    return tuple(name for name, entry in checkpoint.tensors.items() if _is_buffer(name, entry.shape, fields))


def buffer_notes(buffers: tuple[str, ...]) -> list[str]:
    """A warning that names the buffers; none where there are none."""
    if not buffers:
        return []
    return [f"{len(buffers)} tensors are stored buffers ({shown_name(buffers[0])} …), which the model computes itself; "
            "they are not used and not written"]  # fmt: skip


def _kind(name: str) -> str | None:
    match = _ROTARY.fullmatch(name) or _GPT2.fullmatch(name)
    return match.group(1) if match else None


def _is_buffer(name: str, shape: tuple[int, ...], fields: Mapping[str, Any]) -> bool:
    kind = _kind(name)
    if kind is None or (layer_of(name) or 0) >= fields.get("num_hidden_layers", 0):
        return False
    rotated = int(fields.get("head_dim", 0) * (fields.get("partial_rotary_factor") or 1.0))
    if kind == "inv_freq":
        return shape == (rotated // 2,)
    if kind == "masked_bias":
        return shape == ()
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or not shape[0]:
        return False
    return shape[1] == (shape[0] if kind == "bias" else rotated)
