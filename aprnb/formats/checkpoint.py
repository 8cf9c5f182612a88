"""An open checkpoint of any format: metadata and tensor index in memory, tensors read and decoded one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from aprnb.errors import CheckpointError, closest
from aprnb.formats.codecs import decode
from aprnb.formats.contents import Contents, TensorEntry
from aprnb.formats.opening import read_contents
from aprnb.printable import message

if TYPE_CHECKING:
    from aprnb.architecture import Architecture


class Checkpoint(Mapping[str, np.ndarray]):
    """A read-only mapping of tensor name to float32 array; each access reads and decodes that tensor anew.

    `metadata` has the keys of `.apr` for every format; `tensors` are the entries under the file's own names.
    The constructor raises CheckpointError for an invalid file; `strict` also raises for what would be a
    warning.
    """

    def __init__(self, path: str | os.PathLike[str], *, strict: bool = False, verify: bool = False) -> None:
        self.path = Path(path)
        self.contents: Contents = read_contents(self.path, verify)
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(dict(self.contents.tensors))
        self.warnings: tuple[str, ...] = self.contents.warnings
        self._hashes: dict[str, tuple[int, Any]] | None = None  # the bytes hashed so far, and the hash
        if strict:
            self.refuse_warnings(self.warnings)

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata under the keys of `.apr`; a GGUF file's graph is replaced by the family that has it."""
        described = dict(self.contents.metadata)
        if self.format == "gguf":
            from aprnb.architecture.identify import gguf_names

            described |= gguf_names(described)
        return MappingProxyType(described)

    @property
    def format(self) -> str:
        """`apr`, `gguf`, `safetensors` or `huggingface` (a folder)."""
        return self.contents.format

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that hold tensors."""
        return sum(file.source.size_bytes for file in self.contents.files)

    @cached_property
    def architecture(self) -> Architecture:
        """Which model this is, every field with its source; raises ArchitectureError, never guesses."""
        from aprnb.architecture import resolve

        return resolve(self)

    def entry(self, name: str) -> TensorEntry:
        """The tensor's index entry; raises KeyError that suggests a near name."""
        if name not in self.tensors:
            raise KeyError(message(f"no tensor {name!r} in {self.path}{closest(name, self.tensors)}"))
        return self.tensors[name]

    def raw(self, name: str) -> bytes:
        """The tensor's bytes as stored in the file."""
        entry = self.entry(name)
        return bytes(self.read_part(name, 0, entry.size_bytes))

    def raw_parts(self, name: str, part_bytes: int = 16 << 20) -> Iterator[bytearray]:
        """The same in parts, which bounds the memory."""
        size = self.entry(name).size_bytes
        return (self.read_part(name, at, min(part_bytes, size - at)) for at in range(0, size, part_bytes))

    def read_part(self, name: str, start: int, size_bytes: int) -> bytearray:
        """`size_bytes` of the tensor's bytes from `start`, to compare or copy it without having all of it in memory."""
        entry = self.entry(name)
        if not 0 <= start <= start + size_bytes <= entry.size_bytes:
            raise ValueError(f"bytes {start}–{start + size_bytes} are outside {name} ({entry.size_bytes} bytes)")
        file = self.contents.files[entry.file]
        data = file.source.read(file.data_start + entry.offset + start, size_bytes, f"tensor {name}")
        if self._hashes is not None:
            hashed, digest = self._hashes.get(name) or (0, hashlib.sha256())
            if start == hashed:
                digest.update(data)
                self._hashes[name] = hashed + size_bytes, digest
        return data

    def is_hole(self, name: str, start: int, size_bytes: int) -> bool:
        """Whether this part of the tensor is a hole of a sparse file: zeros that were never written."""
        entry = self.entry(name)
        file = self.contents.files[entry.file]
        return file.source.is_hole(file.data_start + entry.offset + start, size_bytes)

    def keep_hashes(self) -> None:
        """Hashes each tensor that is read from now on from its first byte to its last, for `content_hashes`."""
        self._hashes = {}

    def content_hashes(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of each tensor's bytes, in hexadecimal.

        Of tensors that were read since `keep_hashes`, whole or part after part, the hash is that of the bytes as they
        were first read; the others are read now.
        """
        return {name: self._taken_hash(name) or self._hash(name) for name in names}

    def fingerprint(self) -> str:
        """SHA-256 over metadata, index and all tensors' bytes. Reads the whole file."""
        digest = hashlib.sha256(
            repr(sorted(self.metadata.items(), key=lambda item: item[0])).encode("utf-8", "replace")
        )
        for name, content in self.content_hashes(self.tensors).items():
            entry = self.tensors[name]
            digest.update(repr((name, entry.dtype.name, entry.shape, content)).encode("utf-8", "replace"))
        return digest.hexdigest()

    def _taken_hash(self, name: str) -> str | None:
        hashed, digest = (self._hashes or {}).get(name, (0, None))
        return digest.hexdigest() if digest and hashed == self.entry(name).size_bytes else None

    def _hash(self, name: str) -> str:
        digest = hashlib.sha256()
        for part in self.raw_parts(name):
            digest.update(part)
        return digest.hexdigest()

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entry(name)
        entry.require_bytes()
        return decode(self.read_part(name, 0, entry.size_bytes), entry.dtype, entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} tensors, {self.size_bytes:,} bytes)"

    def refuse_warnings(self, warnings: Sequence[str]) -> None:
        """Closes the file and raises CheckpointError if there are any: what `strict` means."""
        if warnings:
            self.close()
            raise CheckpointError(
                f"{self.path} has warnings, which strict does not allow: {'; '.join(warnings)}",
                action="open it without strict to read it with these warnings",
            )

    def close(self) -> None:
        for file in self.contents.files:
            file.source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str], *, strict: bool = False, verify: bool = False) -> Checkpoint:
    """Opens a checkpoint: metadata and tensor index are read and checked, no tensor data.

    `path` is an `.apr`, GGUF or safetensors file, or a Hugging Face folder; the first bytes tell, not the name. What a
    file lacks or has wrong and can be read in one way only is listed in `warnings`; `strict=True` refuses it.
    `verify=True` also checks the footer checksum of an `.apr` over the whole file. Raises FileMissing, or
    CheckpointError that names what the file is, where it breaks, and what to do.
    """
    return Checkpoint(path, strict=strict, verify=verify)
