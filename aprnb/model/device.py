"""The device and dtypes of a model; an unavailable device raises an error that names it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aprnb.errors import UsageProblem
from aprnb.option_values import read_value
from aprnb.options import OPTIONS


@dataclass(frozen=True, slots=True)
class Placement:
    """Device, computation dtype, and quantisation of the linear layers (None, `nf4` or `int8`)."""

    device: torch.device
    dtype: torch.dtype
    quantize: str | None = None

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def place(device: str = "auto", dtype: str | torch.dtype = "auto", quantize: str | None = None) -> Placement:
    """Resolve `auto`: the GPU if there is one, and bfloat16 on a GPU that supports it, else float32."""
    if quantize not in (None, "nf4", "int8"):
        raise UsageProblem(f"quantize {quantize!r} is not known", expected="nf4 or int8")
    chosen = _device(device)
    name = read_value(OPTIONS["load_dtype"], dtype)
    if name == "auto":
        fast = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
        return Placement(chosen, torch.bfloat16 if fast else torch.float32, quantize)
    return Placement(chosen, getattr(torch, name), quantize)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageProblem(f"device {name!r} is not known", expected="auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageProblem(f"device {name} is unavailable: no CUDA GPU found", action="use --device cpu or auto")
    return device
