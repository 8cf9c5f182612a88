"""Generation with NF4 weights on a CPU: decoded once for an answer.

bitsandbytes decodes every weight for every token, which takes a CPU longer than the multiplication.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch

from aprnb.units import bytes_text

_MOST_OF_FREE_MEMORY = 0.8


@contextmanager
def decoded_weights(model: torch.nn.Module) -> Iterator[str | None]:
    """Replace the NF4 layers' products by those of their decoded weights; yields a notice where there are such layers.

    Nothing is decoded where that would take more than four fifths of the free memory. The layers are as before when
    the block ends.
    """
    import psutil

    layers = [layer for layer in model.modules() if _is_nf4_on_cpu(layer)]
    needed, free = sum(map(_decoded_bytes, layers)), psutil.virtual_memory().available
    if not layers:
        yield None
        return
    if needed > _MOST_OF_FREE_MEMORY * free:
        yield (
            f"each token decodes the NF4 weights again, which is slow: decoding them once needs {bytes_text(needed)}, "
            f"{bytes_text(free)} of memory are free"
        )
        return
    try:
        for layer in layers:
            layer.forward = _Product(layer)
        yield f"the NF4 weights were decoded once for this answer ({bytes_text(needed)} of memory)"
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


class _Product:
    """The layer's `forward` with the decoded weight [out, in], in the dtype in which the layer computes."""

    def __init__(self, layer: Any) -> None:
        from bitsandbytes.functional import dequantize_4bit

        self.bias = layer.bias
        self.weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(_dtype(layer))

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        product = torch.nn.functional.linear(values.to(self.weight.dtype), self.weight, bias)
        return product.to(values.dtype)


def _is_nf4_on_cpu(layer: Any) -> bool:
    """A 4-bit layer of bitsandbytes, in the layout of its file format, whose `forward` nothing else replaced."""
    weight = getattr(layer, "weight", None)
    state = getattr(weight, "quant_state", None)
    if state is None or weight is None or weight.device.type != "cpu" or "forward" in vars(layer):
        return False
    return type(layer).__module__.startswith("bitsandbytes") and not getattr(state, "packing_format_for_cpu", False)


def _dtype(layer: Any) -> torch.dtype:
    dtype: torch.dtype = layer.compute_dtype or layer.weight.quant_state.dtype
    return dtype


def _decoded_bytes(layer: Any) -> int:
    return prod(layer.weight.quant_state.shape) * _dtype(layer).itemsize
