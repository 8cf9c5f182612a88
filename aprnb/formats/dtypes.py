"""Element types of tensors and the bytes they take.

Numbering: `.apr` codes 0–7, 30 and 128/129 are the format's own, 12 and 14 follow GGML; `apr/dtype_codes.py` reads the
codes of other writers. GGUF files use GGML's numbers throughout.
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
        return self.name in _FLOATS

    @property
    def is_quantized(self) -> bool:
        """Whether several elements share a scale."""
        return (self.block_elements > 1 and self not in LISTED) or self.name == "AprQ8"

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


_FLOATS = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")

F32, F16, BF16, F64 = DType("F32", 1, 4), DType("F16", 1, 2), DType("BF16", 1, 2), DType("F64", 1, 8)
_LARGEST_F16 = 65504.0
LARGEST = {"F16": _LARGEST_F16, "BF16": 3.3895313892515355e38}
"""The largest finite value of the types whose range is narrower than that of float32."""
LARGEST |= {"AprQ4": 7 * _LARGEST_F16, "Q4_0": 8 * _LARGEST_F16, "Q5_0": 16 * _LARGEST_F16, "Q5_1": _LARGEST_F16}
LARGEST |= {"Q8_0": 127 * _LARGEST_F16, "Q4_K": 63 * _LARGEST_F16, "Q5_K": 63 * _LARGEST_F16}
LARGEST |= {"Q6_K": 31 * 127 * _LARGEST_F16}
LARGEST_FLOAT32 = 3.4028234663852886e38
F8_E4M3, F8_E5M2 = DType("F8_E4M3", 1, 1), DType("F8_E5M2", 1, 1)
I8, I16, I32, I64 = DType("I8", 1, 1), DType("I16", 1, 2), DType("I32", 1, 4), DType("I64", 1, 8)
U8, U16, U32, U64 = DType("U8", 1, 1), DType("U16", 1, 2), DType("U32", 1, 4), DType("U64", 1, 8)
BOOL = DType("BOOL", 1, 1)
LISTED = (
    DType("F4", 2, 1), DType("F6_E2M3", 4, 3), DType("F6_E3M2", 4, 3),
    *(DType(name, 1, 1) for name in ("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")), DType("C64", 1, 8),
)  # fmt: skip
"""Types of safetensors files that are listed and not decoded; those of less than a byte lie side by side in it."""
APR_Q4, APR_Q8 = DType("AprQ4", 32, 18), DType("AprQ8", 1, 1, prefix_bytes=4)
Q4_0, Q4_1, Q5_0, Q5_1 = DType("Q4_0", 32, 18), DType("Q4_1", 32, 20), DType("Q5_0", 32, 22), DType("Q5_1", 32, 24)
Q8_0, Q8_1 = DType("Q8_0", 32, 34), DType("Q8_1", 32, 36)
Q2_K, Q3_K = DType("Q2_K", 256, 84, padded_rows=True), DType("Q3_K", 256, 110, padded_rows=True)
Q4_K, Q5_K = DType("Q4_K", 256, 144, padded_rows=True), DType("Q5_K", 256, 176, padded_rows=True)
Q6_K = DType("Q6_K", 256, 210, padded_rows=True)

CODES: dict[str, int] = {"F32": 0, "F16": 1, "BF16": 30, "F64": 3, "I32": 4, "I64": 5, "I8": 6, "U8": 7}
CODES |= {"Q4_K": 12, "Q6_K": 14, "AprQ4": 128, "AprQ8": 129}
"""The codes that we write: those every reader of the format understands."""

GGML: dict[int, DType] = {
    0: F32, 1: F16, 2: Q4_0, 3: Q4_1, 6: Q5_0, 7: Q5_1, 8: Q8_0, 9: Q8_1,
    10: Q2_K, 11: Q3_K, 12: Q4_K,
    13: Q5_K, 14: Q6_K, 15: DType("Q8_K", 256, 292),
    16: DType("IQ2_XXS", 256, 66), 17: DType("IQ2_XS", 256, 74), 18: DType("IQ3_XXS", 256, 98),
    19: DType("IQ1_S", 256, 50), 20: DType("IQ4_NL", 32, 18), 21: DType("IQ3_S", 256, 110),
    22: DType("IQ2_S", 256, 82), 23: DType("IQ4_XS", 256, 136), 24: I8, 25: I16, 26: I32, 27: I64, 28: F64,
    29: DType("IQ1_M", 256, 56), 30: BF16, 34: DType("TQ1_0", 256, 54), 35: DType("TQ2_0", 256, 66),
    39: DType("MXFP4", 32, 17), 40: DType("NVFP4", 64, 36), 41: DType("Q1_0", 128, 18),
}  # fmt: skip
"""GGML's numbers, as GGUF files use them (sizes: llama.cpp's ggml-common)."""
GGML_REMOVED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
"""Numbers of types that llama.cpp had for a time."""

BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in GGML.values()}
BY_NAME |= {dtype.name: dtype for dtype in (U8, APR_Q4, APR_Q8, U16, U32, U64, BOOL, F8_E4M3, F8_E5M2, *LISTED)}
