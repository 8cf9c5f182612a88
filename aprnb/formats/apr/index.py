"""The tensor index: one entry per tensor, all checked before any tensor is returned.

An entry is u16 name length, name (UTF-8), u8 dtype code, u8 number of dims, dims as u64 (outermost first), u64 offset
relative to the data section, u64 size in bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from math import prod

from aprnb.errors import CheckpointError
from aprnb.formats.apr.dtype_codes import settle_dtype
from aprnb.formats.apr.header import Header
from aprnb.formats.contents import MAX_DIMS, MAX_ELEMENTS, TensorEntry
from aprnb.formats.dtypes import BF16, CODES, F16, F32, DType
from aprnb.printable import and_more, shown_name

MAX_NAME_BYTES = 256
_UNSORTED, _LONG_NAME = "the tensor index is not sorted by name", f"a name takes more than {MAX_NAME_BYTES} bytes"
_LENGTH = struct.Struct("<H")
_FIXED = tuple(struct.Struct(f"<{dims + 2}Q") for dims in range(MAX_DIMS + 1))
"""Dims, offset and size of an entry, by its number of dims."""
_PLAIN = {0: (4, F32), 1: (2, F16), 30: (2, BF16)}
"""Codes that mean one type only where the tensor has this number of bytes per element."""
_LONGEST_BLOCK = 256


def pack_entry(entry: TensorEntry, codes: Mapping[str, int] = CODES) -> bytes:
    name = entry.name.encode("utf-8")
    head = _LENGTH.pack(len(name)) + name + bytes((codes[entry.dtype.name], len(entry.shape)))
    return head + _FIXED[len(entry.shape)].pack(*entry.shape, entry.offset, entry.size_bytes)


def read_index(
    raw: bytes, header: Header, path: object, model_type: str | None = None
) -> tuple[dict[str, TensorEntry], list[str]]:
    """Name → entry in index order, and warnings, each with its byte; raises CheckpointError for an invalid index.

    `model_type` is the metadata's, which settles a dtype code that two writers used differently.
    """
    entries: dict[str, TensorEntry] = {}
    oddities = _Oddities()
    position, before = 0, ""
    for number in range(header.tensor_count):
        at = header.tensor_index_offset + position
        try:
            entry, odd, position = _read_entry(raw, position, model_type)
        except (struct.error, IndexError):
            raise CheckpointError(
                f"tensor index of {path} ends inside entry {number + 1} of {header.tensor_count:,}",
                where=f"byte {at:,}",
            ) from None
        except UnicodeDecodeError:
            raise CheckpointError(f"name of tensor {number + 1} is not UTF-8", where=f"byte {at + 2:,}") from None
        except ValueError as error:
            raise CheckpointError(str(error), where=f"index entry {number + 1} at byte {at:,} of {path}") from None
        name = entry.name
        if name in entries:
            raise CheckpointError(f"tensor {shown_name(name)} is listed twice", where=f"byte {at:,} of {path}")
        if odd:
            oddities.add(odd, name, at)
        if name < before:
            oddities.add(_UNSORTED, name, at)
        if len(name) > MAX_NAME_BYTES // 4 and len(name.encode()) > MAX_NAME_BYTES:
            oddities.add(_LONG_NAME, name, at)
        entries[name] = entry
        before = name
    rest = raw[position:].lstrip(b"\0")
    if rest:
        at = header.tensor_index_offset + len(raw) - len(rest)
        oddities.add("the bytes after the last index entry are not zero: ignored", "", at)
    return entries, oddities.texts()


class _Oddities:
    """Counts what is unusual in many entries, with the first place of each."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, int]] = {}
        self._counts: dict[str, int] = {}

    def add(self, text: str, name: str, at: int) -> None:
        if text in self._counts:
            self._counts[text] += 1
        else:
            self._first[text], self._counts[text] = (name, at), 1

    def texts(self) -> list[str]:
        found = []
        for text, (name, at) in self._first.items():
            where = (shown_name(name), f"byte {at:,}", and_more(self._counts[text] - 1))
            found.append(f"{text} ({', '.join(filter(None, where))})")
        return found


def _read_entry(raw: bytes, position: int, model_type: str | None) -> tuple[TensorEntry, str | None, int]:
    (name_length,) = _LENGTH.unpack_from(raw, position)
    name_end = position + 2 + name_length
    if name_end > len(raw):
        raise IndexError
    name = raw[position + 2 : name_end].decode("utf-8")
    code, dims = raw[name_end], raw[name_end + 1]
    if dims > MAX_DIMS:
        raise ValueError(f"tensor {shown_name(name)!r} has {dims} dimensions; expected at most {MAX_DIMS}")
    *sizes, offset, size_bytes = _FIXED[dims].unpack_from(raw, name_end + 2)
    shape = tuple(sizes)
    elements = prod(shape)
    if elements > MAX_ELEMENTS or (elements == 0 and max(shape) > MAX_ELEMENTS):
        raise ValueError(
            f"tensor {shown_name(name)!r} claims shape {list(shape)}; expected at most {MAX_ELEMENTS:,} elements"
        )
    width, plain = _PLAIN.get(code, (0, F32))
    if size_bytes and width * elements == size_bytes:
        return TensorEntry(name, plain, shape, offset, size_bytes), None, name_end + 2 + 8 * (dims + 2)
    alike = shape if elements or size_bytes else (0, shape[-1] % _LONGEST_BLOCK)  # empty shapes that mean the same
    dtype, odd, fits = _dtype_of(code, alike, size_bytes, model_type)
    entry = TensorEntry(name, dtype, shape, offset, size_bytes)
    if not fits and not entry.is_tied_placeholder:
        raise ValueError(
            f"tensor {shown_name(name)!r} takes {size_bytes:,} bytes; "
            f"expected {dtype.sizes_bytes(shape)[0]:,} for {dtype.name} {list(shape)}"
        )
    return entry, odd, name_end + 2 + 8 * (dims + 2)


@lru_cache(maxsize=4096)
def _dtype_of(
    code: int, shape: tuple[int, ...], size_bytes: int, model_type: str | None
) -> tuple[DType, str | None, bool]:
    """The type, a warning about it, and whether it takes these bytes; the errors are those of `settle_dtype`."""
    dtype, odd = settle_dtype(code, shape, size_bytes, model_type)
    return dtype, odd, odd is not None or size_bytes in dtype.sizes_bytes(shape)
