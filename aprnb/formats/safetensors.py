"""Reads the front of a safetensors file: a u64 length, a JSON object of that many bytes, then the tensors' bytes.

The object maps each name to {dtype, shape, data_offsets}, and `__metadata__` to texts. Offsets are relative to the byte
behind the object; together they cover the rest of the file, without a gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb.formats.contents import MAX_DIMS, MAX_ELEMENTS, TensorEntry
from aprnb.formats.dtypes import BY_NAME, DType
from aprnb.formats.source import ByteSource

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_DTYPES: dict[str, DType] = {
    name: BY_NAME[name]
    for name in ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL",
                 "F8_E4M3", "F8_E5M2")
}  # fmt: skip


def looks_like_safetensors(head: bytes) -> bool:
    """Whether the first nine bytes are a plausible length and the opening of an object."""
    return len(head) > 8 and 2 <= int.from_bytes(head[:8], "little") < 1 << 32 and head[8:9] == b"{"


def read_front(source: ByteSource, file: int = 0) -> tuple[dict[str, TensorEntry], int, dict[str, str]]:
    """Name → entry in the file's order, the byte where data starts, and the `__metadata__` texts.

    Raises CheckpointError for a header that lies about itself, TruncatedFile where the file ends too early.
    """
    length = int.from_bytes(source.read(0, min(8, source.size_bytes), "the header length"), "little")
    if source.size_bytes < 8 or length > source.size_bytes - 8:
        raise TruncatedFile(
            f"{source.path} ends at byte {source.size_bytes:,}, inside the header",
            expected=f"bytes 8 to {8 + length:,}",
            action="copy or download the file again",
        )
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{source.path} claims a header of {length:,} bytes",
            expected=f"at most {MAX_HEADER_BYTES:,}",
            where="byte 0",
        )
    header = _parse(source.read(8, length, "the header"), source.path)
    texts = _texts(header.pop("__metadata__", {}), source.path)
    entries = {name: _entry(name, stated, source.path, file) for name, stated in header.items()}
    _check_cover(entries, source, 8 + length)
    return entries, 8 + length, texts


def _parse(raw: bytearray, path: object) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is listed twice")
        return found

    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"header of {path} is not UTF-8", where=f"byte {8 + error.start:,}") from None
    except json.JSONDecodeError as error:
        at = 8 + len(error.doc[: error.pos].encode())
        raise CheckpointError(f"header of {path} is not JSON ({error.msg})", where=f"byte {at:,}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"header of {path} is refused: {reason}", where="byte 8") from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"header of {path} is a JSON {type(parsed).__name__}", expected="an object")
    return parsed


def _texts(stated: Any, path: object) -> dict[str, str]:
    if not isinstance(stated, dict) or not all(isinstance(value, str) for value in stated.values()):
        raise CheckpointError(f"__metadata__ of {path} is not an object of texts", where="byte 8")
    return stated


def _entry(name: str, stated: Any, path: object, file: int) -> TensorEntry:
    def refuse(found: str) -> CheckpointError:
        return CheckpointError(f"tensor {name[:200]!r} {found}", where=f"header of {path}")

    if not isinstance(stated, dict) or stated.keys() != {"dtype", "shape", "data_offsets"}:
        raise refuse("is not described by dtype, shape and data_offsets")
    shape, offsets = stated["shape"], stated["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if len(offsets) != 2 or not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise refuse(f"has shape {str(shape)[:60]} and data_offsets {str(offsets)[:60]}; expected whole numbers")
    if len(shape) > MAX_DIMS:
        raise refuse(f"has {len(shape)} dimensions; expected at most {MAX_DIMS}")
    if max(shape, default=0) > MAX_ELEMENTS or prod(shape) > MAX_ELEMENTS:
        raise refuse(f"claims shape {shape}; expected at most {MAX_ELEMENTS:,} elements")
    dtype = _DTYPES.get(stated["dtype"]) if isinstance(stated["dtype"], str) else None
    if dtype is None:
        raise refuse(f"has dtype {str(stated['dtype'])[:40]!r}; expected one of {', '.join(_DTYPES)}")
    start, end = offsets
    size = dtype.flat_size_bytes(prod(shape))
    if end - start != size:
        raise refuse(f"takes bytes {start:,} to {end:,}; expected {size:,} bytes for {dtype.name} {shape}")
    return TensorEntry(name, dtype, tuple(shape), start, size, file)


def _check_cover(entries: Mapping[str, TensorEntry], source: ByteSource, data_start: int) -> None:
    """The payloads follow each other without overlap or gap, up to the end of the file."""
    position, before = 0, "the header"
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.size_bytes)):
        if entry.offset != position:
            what = "overlap" if entry.offset < position else "leave a gap between them"
            raise CheckpointError(
                f"{before} and tensor {entry.name} {what}",
                expected=f"data from byte {data_start + position:,}",
                where=f"byte {data_start + entry.offset:,} of {source.path}",
            )
        position, before = entry.offset + entry.size_bytes, f"tensor {entry.name}"
        if data_start + position > source.size_bytes:
            first = max(source.size_bytes, data_start + entry.offset)
            raise TruncatedFile(
                f"{source.path} ends at byte {source.size_bytes:,}: byte {first:,} is the first one missing "
                f"of {before}",
                expected=f"bytes {data_start + entry.offset:,} to {data_start + position:,}",
                action="copy or download the file again",
            )
    if data_start + position != source.size_bytes:
        raise CheckpointError(
            f"{source.path} has {source.size_bytes - data_start - position:,} bytes behind the last tensor",
            expected=f"its end at byte {data_start + position:,}",
        )
