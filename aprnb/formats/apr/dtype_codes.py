"""The meaning of an index entry's dtype code: writers use three numberings.

Older writers and the tool's direct GGUF path use other numbers, so many codes have several meanings. The entry's size
distinguishes most.
"""

from __future__ import annotations

from functools import lru_cache

from aprnb.formats.dtypes import (
    APR_Q4,
    APR_Q8,
    BF16,
    CODES,
    F16,
    F32,
    F64,
    I8,
    I32,
    I64,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    Q8_1,
    U8,
    DType,
)  # fmt: skip

Q4K_CONVERTER = "transformer_lm_q4k"
"""model_type of the tool's direct GGUF path; its first version numbered the block types on its own."""

_OWN = {code: name for name, code in CODES.items()} | {8: "AprQ4", 9: "AprQ8"}
"""The format's own meanings, legacy numbers of its quantised types included; any other is a warning."""


_READINGS: dict[int, tuple[DType, ...]] = {
    0: (F32, BF16, Q2_K, Q3_K),
    1: (F16,),
    2: (BF16, Q4_0),
    3: (F64, Q4_1),
    4: (I32,),
    5: (I64,),
    6: (I8, Q5_0),
    7: (U8, Q5_1),
    8: (APR_Q4, Q8_0, Q4_K),
    9: (APR_Q8, Q6_K, Q8_1),
    10: (Q8_0, Q2_K),
    11: (Q3_K,),
    12: (Q4_K,),
    13: (Q5_K,),
    14: (Q6_K,),
    30: (BF16,),
    128: (APR_Q4,),
    129: (APR_Q8,),
}
"""What each code of an `.apr` index has meant, the format's own meaning first."""

_EARLY_CONVERTER: dict[int, tuple[DType, ...]] = {8: (Q4_K, Q5_K), 9: (Q6_K,), 10: (Q8_0,)}
"""The first converter from GGUF (model_type transformer_lm_q4k, no layout bit) numbered its block types itself."""


@lru_cache(maxsize=4096)
def settle_dtype(
    code: int, shape: tuple[int, ...], size_bytes: int, model_type: str | None
) -> tuple[DType, str | None]:
    """The element type that `code` means for a tensor of this shape and size, and a warning or "".

    `model_type` is the metadata's. Raises ValueError for a code that no writer uses, and for a size that fits two
    readings. Where no reading fits, the code's own meaning is returned for the caller to compare.
    """
    if code not in _READINGS:
        raise ValueError(f"a tensor has dtype code {code}, which no writer of the format uses")
    own = (readings(code, shape, size_bytes) or _READINGS[code])[0]
    fits = [dtype for dtype in readings(code, shape, size_bytes, model_type) if _is_likely(dtype, code, shape)]
    if size_bytes == 0:
        fits = fits[:1]
    if code == 8 and model_type is not None:
        # Any other writer means AprQ4, which takes as many bytes as Q4_K; model_type alone distinguishes them.
        fits = fits[:1]
    if len(fits) > 1:
        names = " or ".join(dtype.name for dtype in fits)
        raise ValueError(
            f"a tensor of {size_bytes:,} bytes with dtype code {code} and shape {list(shape)} can be {names}"
        )
    dtype = fits[0] if fits else own
    _require_one_layout(dtype, shape, size_bytes)
    odd = bool(fits) and dtype.name != _OWN.get(code)
    return dtype, f"dtype code {code} is read as {dtype.name}, by its size" if odd else None


def readings(code: int, shape: tuple[int, ...], size_bytes: int, model_type: str | None = None) -> tuple[DType, ...]:
    """The element types that `code` may mean for a tensor of this shape and size, the likeliest first.

    Empty where no meaning fits. Several fit where their sizes agree: AprQ4 and Q4_K take the same bytes for multiples
    of 256 elements, and only the file's producer distinguishes them.
    """
    early = _EARLY_CONVERTER.get(code, ()) if model_type == Q4K_CONVERTER else ()
    fitting = [
        tuple(dtype for dtype in meanings if size_bytes in dtype.sizes_bytes(shape))
        for meanings in (early, _READINGS.get(code, ()))
    ]
    return fitting[0] or fitting[1]


def _is_likely(dtype: DType, code: int, shape: tuple[int, ...]) -> bool:
    """The format's own meaning, or whole rows of blocks: GGML quantises no others.

    Without this a short float vector could pass for one padded block.
    """
    return dtype.name == _OWN.get(code) or (bool(shape) and shape[-1] % dtype.block_elements == 0)


def _require_one_layout(dtype: DType, shape: tuple[int, ...], size_bytes: int) -> None:
    """Raises where rows padded to whole blocks and one run of blocks through the matrix take equally many bytes."""
    if dtype.padded_rows and len(shape) == 2 and shape[0] > 1 and shape[1] % dtype.block_elements:
        padded, flat = dtype.sizes_bytes(shape)
        if padded == flat == size_bytes:
            raise ValueError(
                f"a {dtype.name} tensor of shape {list(shape)} can hold padded rows or one run of blocks: "
                f"both take {size_bytes:,} bytes"
            )
