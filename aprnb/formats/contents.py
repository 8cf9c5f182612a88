"""What a reader returns before any tensor is read: the same for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from aprnb.errors import CheckpointError
from aprnb.formats.dtypes import DType
from aprnb.formats.source import ByteSource

Format = Literal["apr", "gguf", "safetensors", "huggingface"]
Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in total."""
Checksum = Literal["absent", "not checked", "ok"]
HEAD_NAME = "lm_head.weight"
MAX_DIMS = 8
MAX_ELEMENTS = 1 << 48


class ShardWarning(str):
    """The warning that a file contains only a part of a model."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: `shape` outermost dimension first, `offset` in bytes from the data section of `files[file]`."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    size_bytes: int
    file: int = 0

    @property
    def elements(self) -> int:
        """The product of the dimensions."""
        return prod(self.shape)

    @property
    def is_tied_placeholder(self) -> bool:
        """Whether this is a head with its shape and no bytes, which means that it equals the embedding."""
        return self.name == HEAD_NAME and self.size_bytes == 0 and self.elements > 0

    def require_bytes(self) -> None:
        """Raises CheckpointError for such a head."""
        if self.is_tied_placeholder:
            found = f"{self.name} has a shape and no bytes: the head is tied to the embedding"
            raise CheckpointError(found, action="read the embedding instead")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that holds tensor data, from byte `data_start` on."""

    source: ByteSource
    data_start: int


@dataclass(frozen=True)
class Contents:
    """A file (or a folder of them), read and checked up to its tensor data.

    `metadata` has the keys of `.apr` for every format, so that one resolver serves them all. `warnings` list what is
    missing or wrong and has only one possible reading, each with its byte offset.
    """

    format: Format
    version: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    files: tuple[DataFile, ...]
    warnings: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    checksums: Mapping[str, Checksum] = field(default_factory=dict)
