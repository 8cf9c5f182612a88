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

from aprnb.errors import CheckpointError, UsageProblem, closest
from aprnb.formats.codecs import decode
from aprnb.formats.contents import Contents, TensorEntry
from aprnb.formats.opening import read_contents
from aprnb.printable import message

if TYPE_CHECKING:
    from aprnb.architecture import Architecture


class Checkpoint(Mapping[str, np.ndarray]):
    """A read-only mapping of tensor name to float32 array; each tensor is read and decoded on each access.

    Open one with `aprnb.open`, which documents the arguments and errors. It is a context manager that closes the files.

    Attributes:
        path: the file or folder.
        tensors: name in the file → `TensorEntry`: dtype, shape (outermost dimension first), offset and size in bytes.
        warnings: what is missing or wrong in the file and has only one possible reading.
        contents: all that was read before tensor data, such as format version, flags and checksums.

    Example:
        >>> checkpoint = aprnb.open("pocket-qwen3.apr")
        >>> checkpoint["model.norm.weight"].shape, checkpoint.entry("model.norm.weight").dtype.name
        ((128,), 'BF16')
    """

    def __init__(self, path: str | os.PathLike[str], *, strict: bool = False, verify: bool = False) -> None:
        self.path = Path(path)
        self.contents: Contents = read_contents(self.path, verify)
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(dict(self.contents.tensors))
        self.warnings: tuple[str, ...] = self.contents.warnings
        self._hashes: dict[str, tuple[int, Any]] | None = None  # the bytes hashed so far, and the hash
        if strict:
            self.reject_warnings(self.warnings)

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The file's metadata, with the keys of `.apr` for every format; a GGUF graph is replaced by its family."""
        described = dict(self.contents.metadata)
        if self.format == "gguf":
            from aprnb.architecture.identify import gguf_names

            described |= gguf_names(described)
        return MappingProxyType(described)

    @property
    def format(self) -> str:
        """One of `apr`, `gguf`, `safetensors` and `huggingface` (a folder)."""
        return self.contents.format

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that hold tensors."""
        return sum(file.source.size_bytes for file in self.contents.files)

    @cached_property
    def architecture(self) -> Architecture:
        """The model's architecture, every field with its source; raises ArchitectureError where a field is open."""
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
        """`size_bytes` of the tensor's bytes from byte `start`; raises ValueError for a range outside the tensor."""
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
        """Whether this part of the tensor is a hole of a sparse file, which reads as zeros and takes no disk space."""
        entry = self.entry(name)
        file = self.contents.files[entry.file]
        return file.source.is_hole(file.data_start + entry.offset + start, size_bytes)

    def keep_hashes(self) -> None:
        """Hash each tensor that is read from now on from its first byte to its last, for `content_hashes`."""
        self._hashes = {}

    def content_hashes(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of each tensor's bytes, in hexadecimal.

        For a tensor that was read since `keep_hashes`, whole or in consecutive parts, this is the hash of the bytes
        that were read; the others are read now.
        """
        return {name: self._taken_hash(name) or self._hash(name) for name in names}

    def fingerprint(self) -> str:
        """SHA-256 over metadata, index and all tensors' bytes, in hexadecimal. Reads the whole file."""
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

    def reject_warnings(self, warnings: Sequence[str]) -> None:
        """Close the files and raise CheckpointError if there are any `warnings`."""
        if warnings:
            self.close()
            raise CheckpointError(
                f"{self.path} has warnings, which strict does not allow: {'; '.join(warnings)}",
                action="open it without strict to read it with these warnings",
            )

    def close(self) -> None:
        """Close the files; tensors cannot be read afterwards."""
        for file in self.contents.files:
            file.source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str], *, strict: bool = False, verify: bool = False) -> Checkpoint:
    """Open a checkpoint: read and check its metadata and tensor index, but no tensor data.

    Args:
        path: an `.apr`, GGUF or safetensors file, or a Hugging Face folder. The first bytes decide, not the name.
        strict: raise CheckpointError for what would be in `warnings`.
        verify: also check the footer checksum of an `.apr` file, for which the whole file is read.

    Returns:
        The `Checkpoint`, a mapping of tensor name to float32 array.

    Raises:
        FileMissing: nothing is at `path`.
        CheckpointError: the file is malformed, or of an unsupported format; the message names the byte.

    Example:
        >>> aprnb.open("pocket-qwen3.apr")
        Checkpoint('pocket-qwen3.apr', 36 tensors, 1,756,036 bytes)
    """
    if path is None:
        raise UsageProblem(
            "no checkpoint: the path is None",
            action="the output of a run is None until it has finished, and with --adapter-only: see run.status",
        )
    return Checkpoint(path, strict=strict, verify=verify)
