"""An open `.apr` file: header, metadata and tensor index in memory, tensors read and decoded one by one on demand."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from aprnb.errors import CheckpointError
from aprnb.formats.blocks import decode
from aprnb.formats.header import COLUMN_MAJOR, COMPRESSED, HEADER_BYTES, ROW_MAJOR, Header, align, read_header
from aprnb.formats.index import TensorEntry, read_index
from aprnb.formats.metadata import read_metadata
from aprnb.formats.source import ByteSource

if TYPE_CHECKING:
    from aprnb.architecture import Architecture

_FOOTER_CHUNK_BYTES = 4 << 20


class Checkpoint(Mapping[str, np.ndarray]):
    """A read-only mapping of tensor name to float32 array; each access reads and decodes that tensor anew.

    Raises CheckpointError from the constructor for a file whose header, metadata or index do not hold together.
    """

    def __init__(self, path: str | os.PathLike[str], *, verify: bool = False) -> None:
        self._source = ByteSource(path)
        try:
            self._read_front()
            self.footer_checksum = self._footer_state(verify)
        except BaseException:
            self.close()
            raise

    def _read_front(self) -> None:
        source = self._source
        self.path: Path = source.path
        self.size_bytes: int = source.size_bytes
        head = source.read(0, min(HEADER_BYTES, source.size_bytes), "the header")
        self.header: Header = read_header(bytes(head), self.path, self.size_bytes)
        warnings = _header_warnings(self.header)
        raw = source.read(self.header.metadata_offset, self.header.metadata_size, "the metadata")
        if self.header.flags & COMPRESSED and raw[:1] != b"{":
            raise CheckpointError(f"{self.path} is compressed (flag 0x{self.header.flags & COMPRESSED:04x})")
        metadata, oddities = read_metadata(raw, self.path, self.header.metadata_offset)
        self.metadata: Mapping[str, Any] = MappingProxyType(metadata)
        room = self.header.data_offset - self.header.tensor_index_offset
        index = source.read(self.header.tensor_index_offset, room, "the tensor index")
        tensors = read_index(bytes(index), self.header, self.path, self.size_bytes)
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(tensors)
        self.warnings: tuple[str, ...] = (*warnings, *oddities, *_index_warnings(tensors))

    @property
    def header_checksum(self) -> str:
        """`ok`, or `absent` for writers that left it zero; a wrong one does not open."""
        return "ok" if self.header.checksum else "absent"

    @cached_property
    def architecture(self) -> Architecture:
        """Which model this is, every field with its source; raises ArchitectureError, never guesses."""
        from aprnb.architecture import resolve

        return resolve(self)

    def raw(self, name: str) -> bytes:
        """The tensor's bytes as they lie in the file."""
        return bytes(self._read(self.entry(name)))

    def entry(self, name: str) -> TensorEntry:
        """The tensor's index entry; raises KeyError that suggests a near name."""
        if name not in self.tensors:
            from aprnb.errors import closest

            raise KeyError(f"no tensor {name!r} in {self.path}{closest(name, self.tensors)}")
        return self.tensors[name]

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entry(name)
        if entry.is_tied_placeholder:
            raise CheckpointError(
                f"{name} has a shape and no bytes: the head is tied to the embedding",
                action="read the embedding instead",
            )
        return decode(self._read(entry), entry.dtype, entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} tensors, {self.size_bytes:,} bytes)"

    def _read(self, entry: TensorEntry) -> bytearray:
        start = self.header.data_offset + entry.offset
        return self._source.read(start, entry.size_bytes, f"tensor {entry.name}")

    def read_part(self, name: str, start: int, size_bytes: int) -> bytearray:
        """`size_bytes` of the tensor's bytes from `start`, for those who compare or copy without holding it whole."""
        entry = self.entry(name)
        if not 0 <= start <= start + size_bytes <= entry.size_bytes:
            raise ValueError(f"bytes {start}–{start + size_bytes} lie outside {name} ({entry.size_bytes} bytes)")
        return self._source.read(self.header.data_offset + entry.offset + start, size_bytes, f"tensor {name}")

    def is_hole(self, name: str, start: int, size_bytes: int) -> bool:
        """Whether this part of the tensor is a hole of a sparse file: zeros that nobody wrote."""
        return self._source.is_hole(self.header.data_offset + self.entry(name).offset + start, size_bytes)

    def read_end(self, size_bytes: int) -> bytes:
        """The last bytes of the file: the footer, where there is one."""
        size_bytes = min(size_bytes, self.size_bytes)
        return bytes(self._source.read(self.size_bytes - size_bytes, size_bytes, "the end of the file"))

    def _footer_state(self, verify: bool) -> str:
        """`ok`, `absent` or `not checked`; raises where a verified checksum is wrong."""
        end = self.header.data_offset + max(
            (align(entry.offset + entry.size_bytes) for entry in self.tensors.values()), default=0
        )
        if self.size_bytes < end + 4:
            return "absent"
        if not verify:
            return "not checked"
        checksum, position = 0, 0
        while position < self.size_bytes - 4:
            size = min(_FOOTER_CHUNK_BYTES, self.size_bytes - 4 - position)
            checksum = zlib.crc32(self._source.read(position, size, "the file"), checksum)
            position += size
        stored = int.from_bytes(self._source.read(self.size_bytes - 4, 4, "the footer"), "little")
        if stored != checksum:
            raise CheckpointError(
                f"footer checksum of {self.path} is {stored:08x}",
                expected=f"{checksum:08x} for the bytes before it",
                where=f"byte {self.size_bytes - 4:,}",
                action="the file is damaged: copy or download it again",
            )
        return "ok"

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _header_warnings(header: Header) -> list[str]:
    warnings = []
    if header.checksum == 0:
        warnings.append("header checksum is 0 (byte 40): its writer left it out")
    if not header.flags & (ROW_MAJOR | COLUMN_MAJOR):
        warnings.append("flags name no layout (bytes 6–7): read as row-major, as its writers meant it")
    return warnings


def _index_warnings(tensors: Mapping[str, TensorEntry]) -> list[str]:
    names = list(tensors)
    return [] if names == sorted(names) else ["tensor index is not sorted by name"]


def open(path: str | os.PathLike[str], *, verify: bool = False) -> Checkpoint:
    """Opens an `.apr` checkpoint: header, metadata and index are read and checked, no tensor data.

    `verify=True` also checks the footer checksum over the whole file. Raises FileMissing, or CheckpointError that
    names what the file is, where it breaks, and what to do.
    """
    return Checkpoint(path, verify=verify)
