"""The device and dtypes of a model; a device that does not exist raises an error that names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from aprnb.errors import UsageProblem
from aprnb.option_values import read_value
from aprnb.options import OPTIONS

_CUDA = re.compile(r"cuda(?::([0-9]{1,9}))?")
_GIVEN = "as given"


@dataclass(frozen=True, slots=True)
class Placement:
    """Device, dtype of the computation and why it was chosen, quantisation of linear layers (None, `nf4`, `int8`)."""

    device: torch.device
    dtype: torch.dtype
    quantize: str | None = None
    dtype_reason: str = _GIVEN

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def is_emulated(self) -> bool:
        """Whether the device has no instructions for bfloat16, in which the model computes."""
        return self.dtype == torch.bfloat16 and not has_bf16(self.device)


def place(device: str = "auto", dtype: str | torch.dtype = "auto", quantize: str | None = None) -> Placement:
    """Resolve `auto`: the GPU if there is one, and bfloat16 on a device that has its instructions, else float32."""
    if quantize not in (None, "nf4", "int8"):
        raise UsageProblem(f"quantize {quantize!r} is not known", expected="nf4 or int8")
    chosen = _device(str(device))
    name = read_value(OPTIONS["load_dtype"], dtype)
    if name == "auto":
        fast = has_bf16(chosen)
        kind = "GPU" if chosen.type == "cuda" else "processor"
        reason = f"the {kind} has {'' if fast else 'no '}bf16 instructions"
        return Placement(chosen, torch.bfloat16 if fast else torch.float32, quantize, reason)
    return Placement(chosen, getattr(torch, name), quantize)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; torch emulates them elsewhere, slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks the current device
            return torch.cuda.is_bf16_supported(including_emulation=False)
    facts = getattr(torch.cpu, "get_capabilities", dict[str, Any])()  # not in the oldest torch that aprnb supports
    if facts.get("architecture") == "arm64":
        return bool(facts.get("bf16")) and torch.backends.mkldnn.is_available()
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"  # ATEN_CPU_CAPABILITY may keep torch from it
    return used and bool(facts.get("avx512_bf16") or facts.get("amx_bf16"))


def _device(name: str) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    wanted = _CUDA.fullmatch("cuda" if name == "auto" else name)
    if wanted is None:
        raise UsageProblem(f"device {name!r} is not supported", expected="auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UsageProblem(f"device {name} is unavailable: no CUDA GPU found", action="use --device cpu or auto")
    number, count = int(wanted[1] or torch.cuda.current_device()), torch.cuda.device_count()
    if number >= count:
        raise UsageProblem(f"device {name} is unavailable", expected=" or ".join(f"cuda:{n}" for n in range(count)))
    return torch.device("cuda", number)
