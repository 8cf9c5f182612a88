"""Writes `.apr` files: 64-byte header, metadata, index, tensor data, CRC-32 footer; byte-identical for equal input."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aprnb.errors import OutputError
from aprnb.formats.atomic import atomic_file
from aprnb.formats.contents import TensorEntry
from aprnb.formats.dtypes import DType
from aprnb.formats.header import HAS_VOCAB, HEADER_BYTES, ROW_MAJOR, Header, align, pack_header
from aprnb.formats.index import pack_entry
from aprnb.formats.metadata import encode_metadata

MAX_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to write; `load` gives its bytes when their turn comes, so that one is in memory at a time."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], bytes]

    @property
    def size_bytes(self) -> int:
        return self.dtype.sizes_bytes(self.shape)[0]


def write_apr(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Iterable[TensorSource],
    *,
    force: bool = False,
) -> None:
    """Writes the tensors sorted by name (bytewise), each on a multiple of 64.

    Raises OutputExists, FileMissing for a missing folder, OutputError for a full disk or a tensor of the wrong size;
    nothing is left at `path` unless it is complete.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name.encode("utf-8"))
    text = encode_metadata(metadata)
    entries = _lay_out(ordered)
    with atomic_file(path, force) as file:
        checksum = _write_front(file, text, entries, "tokenizer.vocabulary" in metadata)
        for tensor in ordered:
            data = tensor.load()
            if len(data) != tensor.size_bytes:
                raise OutputError(f"{tensor.name} gave {len(data):,} bytes", expected=f"{tensor.size_bytes:,}")
            checksum = _write(file, data + bytes(align(len(data)) - len(data)), checksum)
        file.write(checksum.to_bytes(4, "little"))


def _lay_out(tensors: list[TensorSource]) -> list[TensorEntry]:
    entries: list[TensorEntry] = []
    offset = 0
    for tensor in tensors:
        if len(tensor.name.encode("utf-8")) > MAX_NAME_BYTES:
            raise OutputError(
                f"tensor name {tensor.name[:40]!r}… is too long", expected=f"at most {MAX_NAME_BYTES} bytes"
            )
        if entries and entries[-1].name == tensor.name:
            raise OutputError(f"tensor {tensor.name} was given twice")
        entries.append(TensorEntry(tensor.name, tensor.dtype, tensor.shape, offset, tensor.size_bytes))
        offset += align(tensor.size_bytes)
    return entries


def _write_front(file: IO[bytes], metadata: bytes, entries: list[TensorEntry], has_vocabulary: bool) -> int:
    index = b"".join(pack_entry(entry) for entry in entries)
    index_offset = HEADER_BYTES + align(len(metadata))
    header = Header(
        version=(2, 0),
        flags=ROW_MAJOR | (HAS_VOCAB if has_vocabulary else 0),
        tensor_count=len(entries),
        metadata_offset=HEADER_BYTES,
        metadata_size=len(metadata),
        tensor_index_offset=index_offset,
        data_offset=index_offset + align(len(index)),
        checksum=0,
    )
    front = pack_header(header)
    front += metadata + bytes(align(len(metadata)) - len(metadata)) + index + bytes(align(len(index)) - len(index))
    return _write(file, front, 0)


def _write(file: IO[bytes], data: bytes, checksum: int) -> int:
    file.write(data)
    return zlib.crc32(data, checksum)
