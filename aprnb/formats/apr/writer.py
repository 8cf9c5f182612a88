"""Writes `.apr` files: 64-byte header, metadata, index, tensor data, CRC-32 footer; byte-identical for equal input."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from aprnb.errors import OutputError
from aprnb.formats.apr.header import HAS_VOCAB, HEADER_BYTES, MAX_METADATA_BYTES, ROW_MAJOR, Header, align, pack_header
from aprnb.formats.apr.index import MAX_NAME_BYTES, pack_entry
from aprnb.formats.apr.metadata_text import Order, encode_metadata
from aprnb.formats.atomic import atomic_file
from aprnb.formats.contents import MAX_DIMS, MAX_ELEMENTS, TensorEntry
from aprnb.formats.dtypes import CODES, DType
from aprnb.formats.targets import require_writable


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to write; `load` gives its bytes, whole or in parts, when they are written.

    One tensor is in memory at a time, of one given in parts only a part. `stored_bytes` is given where the dtype has
    several layouts for the shape and the first is not meant, or none is (a tied head without bytes).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], bytes | Iterable[bytes | bytearray]]
    stored_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        return self.dtype.sizes_bytes(self.shape)[0] if self.stored_bytes is None else self.stored_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of a file's parts; the default is that of the format's in-memory writer.

    `metadata` and `data` name the order of the keys and of the payloads (the index is always sorted by name); `codes`
    are the numbers of the dtypes.
    """

    metadata: Order = "typed"
    data: Order = "typed"
    footer: bool = True
    flags: int | None = None
    codes: Mapping[str, int] = field(default_factory=lambda: CODES)


def write_apr(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Iterable[TensorSource],
    *,
    force: bool = False,
    layout: Layout | None = None,
) -> None:
    """Writes the tensors sorted by name (bytewise), each on a multiple of 64.

    Raises OutputExists, FileMissing for a missing folder, OutputError for a full disk, for a tensor of the wrong size,
    and for what readers of the format reject; nothing is left at `path` unless it is complete.
    """
    layout = layout or Layout()
    given = list(tensors)
    require_writable(path, force)
    text = encode_metadata(metadata, layout.metadata)
    ordered = sorted(given, key=lambda tensor: tensor.name.encode("utf-8"))
    _require_readable(ordered, text, layout)
    placed = given if layout.data == "given" else ordered
    entries = _lay_out(placed)
    flags = (
        ROW_MAJOR | (HAS_VOCAB if "tokenizer.vocabulary" in metadata else 0) if layout.flags is None else layout.flags
    )
    index = b"".join(pack_entry(entries[tensor.name], layout.codes) for tensor in ordered)
    with atomic_file(path, force) as file:
        checksum = _write(file, _front(text, index, len(entries), flags), 0)
        for tensor in placed:
            checksum = _write_tensor(file, tensor, checksum)
        if layout.footer:
            file.write(checksum.to_bytes(4, "little"))


def _require_readable(tensors: Sequence[TensorSource], metadata: bytes, layout: Layout) -> None:
    """Raises OutputError for what readers of the format reject, truncate or misread."""
    if not tensors:
        raise OutputError("no tensors were given", expected="at least one: readers reject an empty index")
    if len(metadata) > MAX_METADATA_BYTES:
        raise OutputError(f"the metadata take {len(metadata):,} bytes", expected=f"at most {MAX_METADATA_BYTES:,}")
    before = None
    for tensor in tensors:
        size = len(tensor.name.encode("utf-8"))
        if not 0 < size <= MAX_NAME_BYTES:
            raise OutputError(
                f"tensor name {tensor.name[:40]!r}… takes {size} bytes", expected=f"1 to {MAX_NAME_BYTES}"
            )
        if tensor.name == before:
            raise OutputError(f"tensor {tensor.name} was given twice")
        if len(tensor.shape) > MAX_DIMS or max(tensor.shape, default=0) > MAX_ELEMENTS:
            raise OutputError(f"tensor {tensor.name} has shape {list(tensor.shape)}", expected=f"{MAX_DIMS} dimensions")
        if tensor.dtype.name not in layout.codes:
            raise OutputError(
                f"tensor {tensor.name} is {tensor.dtype.name}, which the format has no code for",
                expected=f"one of {', '.join(layout.codes)}",
                action="decode it to F32, F16 or BF16",
            )
        before = tensor.name


def _lay_out(tensors: Iterable[TensorSource]) -> dict[str, TensorEntry]:
    entries: dict[str, TensorEntry] = {}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = TensorEntry(tensor.name, tensor.dtype, tensor.shape, offset, tensor.size_bytes)
        offset += align(tensor.size_bytes)
    return entries


def _front(metadata: bytes, index: bytes, tensor_count: int, flags: int) -> bytes:
    index_offset = HEADER_BYTES + align(len(metadata))
    header = Header(
        version=(2, 0),
        flags=flags,
        tensor_count=tensor_count,
        metadata_offset=HEADER_BYTES,
        metadata_size=len(metadata),
        tensor_index_offset=index_offset,
        data_offset=index_offset + align(len(index)),
        checksum=0,
    )
    return pack_header(header) + _padded(metadata) + _padded(index)


def _padded(data: bytes) -> bytes:
    return data + bytes(align(len(data)) - len(data))


def _write_tensor(file: IO[bytes], tensor: TensorSource, checksum: int) -> int:
    loaded = tensor.load()
    size = 0
    for part in (loaded,) if isinstance(loaded, bytes | bytearray | memoryview) else loaded:
        checksum = _write(file, part, checksum)
        size += len(part)
    if size != tensor.size_bytes:
        raise OutputError(f"{tensor.name} gave {size:,} bytes", expected=f"{tensor.size_bytes:,}")
    return _write(file, bytes(align(size) - size), checksum)


def _write(file: IO[bytes], data: bytes | bytearray | memoryview, checksum: int) -> int:
    file.write(data)
    return zlib.crc32(data, checksum)
