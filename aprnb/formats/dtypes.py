"""Element types of tensors and the bytes they take.

Numbering: `.apr` codes 0–7, 30 and 128/129 are the format's own, 12 and 14 follow GGML. The tool's direct GGUF path
writes GGML numbers throughout, so some codes have two meanings; the entry's size tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class DType:
    """A tensor element type: `block_elements` elements take `block_bytes` bytes, after `prefix_bytes` per tensor."""

    name: str
    block_elements: int
    block_bytes: int
    prefix_bytes: int = 0
    padded_rows: bool = False
    """K-quants: writers pad each row of a matrix to whole blocks; older ones ran through the tensor flat."""

    @property
    def is_float(self) -> bool:
        """Plain floating point, as opposed to integers and block quantisation."""
        return self.name in ("F32", "F16", "BF16", "F64")

    @property
    def is_quantized(self) -> bool:
        return self.block_elements > 1 or self.name == "AprQ8"

    def flat_size_bytes(self, elements: int) -> int:
        """Bytes of `elements` values in one run of blocks; an empty tensor takes none."""
        if elements == 0:
            return 0
        return self.prefix_bytes + -(-elements // self.block_elements) * self.block_bytes

    def sizes_bytes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Every size that a tensor of `shape` may have: per padded row first where that layout exists, then flat."""
        flat = self.flat_size_bytes(prod(shape))
        if self.padded_rows and len(shape) == 2:
            return (shape[0] * self.flat_size_bytes(shape[1]), flat)
        return (flat,)


F32, F16, BF16, F64 = DType("F32", 1, 4), DType("F16", 1, 2), DType("BF16", 1, 2), DType("F64", 1, 8)
I8, U8, I32, I64 = DType("I8", 1, 1), DType("U8", 1, 1), DType("I32", 1, 4), DType("I64", 1, 8)
APR_Q4, APR_Q8 = DType("AprQ4", 32, 18), DType("AprQ8", 1, 1, prefix_bytes=4)
Q4_0, Q4_1, Q5_0, Q5_1 = DType("Q4_0", 32, 18), DType("Q4_1", 32, 20), DType("Q5_0", 32, 22), DType("Q5_1", 32, 24)
Q8_0 = DType("Q8_0", 32, 34)
Q4_K, Q6_K = DType("Q4_K", 256, 144, padded_rows=True), DType("Q6_K", 256, 210, padded_rows=True)

_READINGS: dict[int, tuple[DType, ...]] = {
    0: (F32,),
    1: (F16,),
    2: (BF16, Q4_0),
    3: (F64, Q4_1),
    4: (I32,),
    5: (I64,),
    6: (I8, Q5_0),
    7: (U8, Q5_1),
    8: (APR_Q4, Q8_0),
    9: (APR_Q8,),
    12: (Q4_K,),
    14: (Q6_K,),
    30: (BF16,),
    128: (APR_Q4,),
    129: (APR_Q8,),
}

CODES: dict[str, int] = {"F32": 0, "F16": 1, "BF16": 30, "F64": 3, "I32": 4, "I64": 5, "I8": 6, "U8": 7}
CODES |= {"Q4_K": 12, "Q6_K": 14, "AprQ4": 128, "AprQ8": 129}
"""The codes that we write: those every reader of the format understands."""

BY_NAME: dict[str, DType] = {dtype.name: dtype for readings in _READINGS.values() for dtype in readings}


def dtype_of(code: int, shape: tuple[int, ...], size_bytes: int) -> DType | None:
    """The element type that `code` means for a tensor of this shape and size; None for a code nobody writes.

    Where a code has two meanings the one whose size fits is meant; where none fits, the format's own.
    """
    readings = _READINGS.get(code, ())
    for dtype in readings:
        if size_bytes in dtype.sizes_bytes(shape):
            return dtype
    return readings[0] if readings else None


_GGML = {0: F32, 1: F16, 2: Q4_0, 3: Q4_1, 6: Q5_0, 7: Q5_1, 8: Q8_0, 12: Q4_K, 14: Q6_K, 24: I8, 26: I32, 27: I64}
_GGML |= {28: F64, 30: BF16}


def ggml_dtype(code: int) -> DType | None:
    """The element type of a GGML number, as GGUF files carry it; None for a number without one."""
    return _GGML.get(code)
