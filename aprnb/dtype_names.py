"""How each element type is spelled: in reports and files, in options, in torch. Help reads it, so it imports little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class TorchDtype(Protocol):
    """A `torch.dtype`, for signatures of functions that need no torch."""

    @property
    def is_floating_point(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DtypeName:
    """One element type: `name` in reports and safetensors files, `in_torch` if this package reads it with torch.

    `short_name` and `in_gguf` are given where they differ from `name`; `trains` are types to compute a run in.
    """

    name: str
    in_torch: str = ""
    short_name: str = ""
    in_gguf: str = ""
    trains: bool = False

    @property
    def short(self) -> str:
        """The spelling of help and errors."""
        return self.short_name or self.name.lower()

    @property
    def gguf(self) -> str:
        """The type that a GGUF file has for it: `q8` and `q4` are `.apr` types, GGUF has its own of that size."""
        return self.in_gguf or self.name


FLOATS = (
    DtypeName("F32", "float32", trains=True),
    DtypeName("F16", "float16"),
    DtypeName("BF16", "bfloat16", trains=True),
)
"""What whole models are loaded, converted and merged in."""
TARGETS = (
    *FLOATS,
    DtypeName("AprQ8", short_name="q8", in_gguf="Q8_0"),
    DtypeName("AprQ4", short_name="q4", in_gguf="Q4_0"),
    DtypeName("Q4_K"),
    DtypeName("Q6_K"),
)
"""What tensors can be converted to."""
MIXES = (DtypeName("Q4_K_S"), DtypeName("Q4_K_M"), DtypeName("Q5_K_S"), DtypeName("Q5_K_M"))
"""What GGUF files can be converted to: a type for each tensor, as `llama-quantize` chooses it."""
SAFETENSORS = (
    DtypeName("F64", "float64"), *FLOATS, DtypeName("F8_E4M3"), DtypeName("F8_E5M2"),
    DtypeName("I64", "int64"), DtypeName("I32", "int32"), DtypeName("I16", "int16"), DtypeName("I8", "int8"),
    DtypeName("U64"), DtypeName("U32"), DtypeName("U16"), DtypeName("U8", "uint8"), DtypeName("BOOL", "bool"),
    DtypeName("F4"), DtypeName("F6_E2M3"), DtypeName("F6_E3M2"), DtypeName("F8_E8M0"),
    DtypeName("F8_E4M3FNUZ"), DtypeName("F8_E5M2FNUZ"), DtypeName("C64"),
)  # fmt: skip
"""What safetensors files hold."""

TORCH_NAMES = {dtype.name: dtype.in_torch for dtype in SAFETENSORS if dtype.in_torch}
SHORT_OF_STORED = {stored.lower(): dtype.short for dtype in TARGETS for stored in (dtype.name, dtype.gguf)}
"""A file's name of a type in lower case → what options call it."""
_SHORT = {dtype.in_torch: dtype.short for dtype in FLOATS}


def short_dtype(name: str) -> str:
    """`Float16`, `torch.float16` → `f16`: the one spelling that help and errors show."""
    known = name.lower().removeprefix("torch.")
    return _SHORT.get(known, known)
