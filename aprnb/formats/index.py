"""The tensor index: one entry per tensor, checked whole before any tensor is handed out.

An entry is u16 name length, name (UTF-8), u8 dtype code, u8 number of dims, dims as u64 (outermost first), u64 offset
relative to the data section, u64 size in bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from math import prod

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb.formats.contents import MAX_DIMS, MAX_ELEMENTS, TensorEntry
from aprnb.formats.dtypes import CODES, dtype_of
from aprnb.formats.header import Header, align


def pack_entry(entry: TensorEntry) -> bytes:
    name = entry.name.encode("utf-8")
    dims = struct.pack(f"<{len(entry.shape)}Q", *entry.shape)
    head = struct.pack("<H", len(name)) + name + bytes((CODES[entry.dtype.name], len(entry.shape)))
    return head + dims + struct.pack("<QQ", entry.offset, entry.size_bytes)


def read_index(raw: bytes, header: Header, path: object, size_bytes: int) -> dict[str, TensorEntry]:
    """Name → entry in index order; raises where the index lies about itself or about the file's length."""
    entries: dict[str, TensorEntry] = {}
    position = 0
    for number in range(header.tensor_count):
        at = header.tensor_index_offset + position
        try:
            entry, position = _read_entry(raw, position)
        except (struct.error, IndexError):
            raise CheckpointError(
                f"tensor index of {path} ends inside entry {number + 1} of {header.tensor_count:,}",
                where=f"byte {at:,}",
            ) from None
        except UnicodeDecodeError:
            raise CheckpointError(f"name of tensor {number + 1} is not UTF-8", where=f"byte {at + 2:,}") from None
        except ValueError as error:
            raise CheckpointError(str(error), where=f"index entry {number + 1} at byte {at:,} of {path}") from None
        if entry.name in entries:
            raise CheckpointError(f"tensor {entry.name} is listed twice", where=f"byte {at:,} of {path}")
        entries[entry.name] = entry
    _check_extents(entries.values(), header, path, size_bytes)
    return entries


def _read_entry(raw: bytes, position: int) -> tuple[TensorEntry, int]:
    (name_length,) = struct.unpack_from("<H", raw, position)
    name_end = position + 2 + name_length
    if name_end > len(raw):
        raise IndexError
    name = bytes(raw[position + 2 : name_end]).decode("utf-8")
    code, dims = raw[name_end], raw[name_end + 1]
    if dims > MAX_DIMS:
        raise ValueError(f"tensor {name!r} has {dims} dimensions; expected at most {MAX_DIMS}")
    *shape, offset, size = struct.unpack_from(f"<{dims + 2}Q", raw, name_end + 2)
    return _entry(name, code, tuple(shape), offset, size), name_end + 2 + 8 * (dims + 2)


def _entry(name: str, code: int, shape: tuple[int, ...], offset: int, size_bytes: int) -> TensorEntry:
    if max(shape, default=0) > MAX_ELEMENTS or prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"tensor {name!r} claims shape {list(shape)}; expected at most {MAX_ELEMENTS:,} elements")
    dtype = dtype_of(code, shape, size_bytes)
    if dtype is None:
        raise ValueError(f"tensor {name!r} has dtype code {code}, which no writer of the format uses")
    entry = TensorEntry(name, dtype, shape, offset, size_bytes)
    if size_bytes not in dtype.sizes_bytes(shape) and not entry.is_tied_placeholder:
        raise ValueError(
            f"tensor {name!r} takes {size_bytes:,} bytes; "
            f"expected {dtype.sizes_bytes(shape)[0]:,} for {dtype.name} {list(shape)}"
        )
    return entry


def _check_extents(entries: Iterable[TensorEntry], header: Header, path: object, size_bytes: int) -> None:
    """Every payload inside the file, none over another."""
    before: TensorEntry | None = None
    for entry in sorted((e for e in entries if e.size_bytes), key=lambda e: e.offset):
        start = header.data_offset + entry.offset
        if before and before.offset + before.size_bytes > entry.offset:
            raise CheckpointError(f"tensors {before.name} and {entry.name} overlap", where=f"byte {start:,} of {path}")
        end = start + align(entry.size_bytes)
        if end > size_bytes:
            part = "" if start + entry.size_bytes > size_bytes else "the padding after "
            raise TruncatedFile(
                f"{path} ends at byte {size_bytes:,}: byte {max(start, size_bytes):,} is the first one missing "
                f"of {part}{entry.name}",
                expected=f"bytes {start:,} to {end:,}",
                action="copy or download the file again",
            )
        before = entry
