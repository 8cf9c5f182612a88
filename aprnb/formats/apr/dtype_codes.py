"""What a dtype code of an index entry means: writers have used three numberings, the entry's size tells them apart."""

from __future__ import annotations

from functools import lru_cache

from aprnb.formats.dtypes import DType, dtype_of, early_converter_readings, readings

Q4K_CONVERTER = "transformer_lm_q4k"
"""model_type of the tool's direct GGUF path; its first version numbered the block types on its own."""

_OWN = {0: "F32", 1: "F16", 3: "F64", 4: "I32", 5: "I64", 6: "I8", 7: "U8", 8: "AprQ4", 9: "AprQ8", 12: "Q4_K"}
_OWN |= {14: "Q6_K", 30: "BF16", 128: "AprQ4", 129: "AprQ8"}
"""The format's own meanings, legacy numbers of its quantised types included; any other is a warning."""


@lru_cache(maxsize=4096)
def settle_dtype(
    code: int, shape: tuple[int, ...], size_bytes: int, model_type: str | None
) -> tuple[DType, str | None]:
    """The element type that `code` means for a tensor of this shape and size, and what was odd about it.

    `model_type` is the metadata's. Raises ValueError for a code that no writer uses, and for a size that fits two
    readings. Where no reading fits, the code's own meaning comes back for the caller to compare.
    """
    own = dtype_of(code, shape, size_bytes)
    if own is None:
        raise ValueError(f"a tensor has dtype code {code}, which no writer of the format uses")
    fits = [dtype for dtype in _fitting(code, shape, size_bytes, model_type) if _is_likely(dtype, code, shape)]
    if size_bytes == 0:
        fits = fits[:1]
    if code == 8 and model_type is not None:
        # Any other writer means AprQ4, which takes as many bytes as Q4_K; without a model_type nothing tells them.
        fits = fits[:1]
    if len(fits) > 1:
        names = " or ".join(dtype.name for dtype in fits)
        raise ValueError(
            f"a tensor of {size_bytes:,} bytes with dtype code {code} and shape {list(shape)} can be {names}"
        )
    dtype = fits[0] if fits else own
    _refuse_two_layouts(dtype, shape, size_bytes)
    odd = bool(fits) and dtype.name != _OWN.get(code)
    return dtype, f"dtype code {code} is read as {dtype.name}, by its size" if odd else None


def _fitting(code: int, shape: tuple[int, ...], size_bytes: int, model_type: str | None) -> tuple[DType, ...]:
    early = early_converter_readings(code, shape, size_bytes) if model_type == Q4K_CONVERTER else ()
    return early or readings(code, shape, size_bytes)


def _is_likely(dtype: DType, code: int, shape: tuple[int, ...]) -> bool:
    """The format's own meaning, or whole rows of blocks: GGML quantises no others.

    Without this a short float vector could pass for one padded block.
    """
    return dtype.name == _OWN.get(code) or (bool(shape) and shape[-1] % dtype.block_elements == 0)


def _refuse_two_layouts(dtype: DType, shape: tuple[int, ...], size_bytes: int) -> None:
    """Rows padded to whole blocks, or one run through the matrix: where both take as many bytes nothing tells them."""
    if dtype.padded_rows and len(shape) == 2 and shape[0] > 1 and shape[1] % dtype.block_elements:
        padded, flat = dtype.sizes_bytes(shape)
        if padded == flat == size_bytes:
            raise ValueError(
                f"a {dtype.name} tensor of shape {list(shape)} can hold padded rows or one run of blocks: "
                f"both take {size_bytes:,} bytes"
            )
