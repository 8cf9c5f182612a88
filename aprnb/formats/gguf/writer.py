"""Writes GGUF files, version 3, little-endian: header, key/values, tensor infos, then data on multiples of 32."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from aprnb.errors import OutputError
from aprnb.formats.atomic import atomic_file
from aprnb.formats.contents import Progress
from aprnb.formats.dtypes import GGML, DType
from aprnb.formats.gguf.values import ARRAY, SCALARS, STRING, GgufValue

ALIGNMENT = 32
MAX_NAME_BYTES = 64
"""What llama.cpp can hold (GGML_MAX_NAME, its NUL included)."""

_CODES = {kind: (code, letter) for code, (kind, letter) in SCALARS.items()}
_NUMBERS = {dtype.name: code for code, dtype in GGML.items()}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor to write, `shape` outermost first; `parts` yields its bytes in order when they are written."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    parts: Callable[[], Iterator[bytes | bytearray]]

    @property
    def size_bytes(self) -> int:
        """Blocks run through the whole tensor: GGUF has no padded rows."""
        return self.dtype.flat_size_bytes(prod(self.shape))


def gguf_front(values: Mapping[str, GgufValue], tensors: Sequence[GgufTensor]) -> bytes:
    """Everything before the tensor data, padded to where it starts; tensors keep the given order."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    parts += [_text(key) + _typed(key, value) for key, value in values.items()]
    offset = 0
    for tensor in tensors:
        if len(tensor.name.encode("utf-8")) >= MAX_NAME_BYTES:
            raise OutputError(
                f"tensor name {tensor.name!r} is too long for GGUF", expected=f"below {MAX_NAME_BYTES} bytes"
            )
        if tensor.dtype.name not in _NUMBERS:
            raise OutputError(f"{tensor.name} is {tensor.dtype.name}, which GGUF does not support")
        rank = len(tensor.shape)
        parts.append(_text(tensor.name) + struct.pack(f"<I{rank}Q", rank, *reversed(tensor.shape)))
        parts.append(struct.pack("<IQ", _NUMBERS[tensor.dtype.name], offset))
        offset += aligned(tensor.size_bytes)
    front = b"".join(parts)
    return front + bytes(aligned(len(front)) - len(front))


def write_gguf_file(
    path: Path,
    values: Mapping[str, GgufValue],
    tensors: Iterable[GgufTensor],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes the file; one part of a tensor is in memory at a time.

    Raises OutputExists, FileMissing for a missing folder, OutputError for a full disk or a tensor of the wrong size;
    nothing is left at `path` unless it is complete.
    """
    ordered = list(tensors)
    front = gguf_front(values, ordered)
    total = len(front) + sum(aligned(tensor.size_bytes) for tensor in ordered)
    with atomic_file(path, force) as file:
        written = file.write(front)
        for tensor in ordered:
            size = 0
            for part in tensor.parts():
                size += file.write(part)
                if progress:
                    progress(written + size, total)
            if size != tensor.size_bytes:
                raise OutputError(f"{tensor.name} gave {size:,} bytes", expected=f"{tensor.size_bytes:,}")
            written += size + file.write(bytes(aligned(size) - size))


def aligned(size: int) -> int:
    """The next multiple of 32."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _typed(key: str, value: GgufValue) -> bytes:
    if value.kind == "string":
        return struct.pack("<I", STRING) + _text(value.value)
    if value.kind == "array[string]":
        return struct.pack("<IIQ", ARRAY, STRING, len(value.value)) + b"".join(map(_text, value.value))
    try:
        if value.kind.startswith("array["):
            code, letter = _CODES[value.kind[6:-1]]
            return struct.pack(f"<IIQ{len(value.value)}{letter}", ARRAY, code, len(value.value), *value.value)
        code, letter = _CODES[value.kind]
        return struct.pack(f"<I{letter}", code, value.value)
    except (struct.error, OverflowError, TypeError):
        raise OutputError(f"{key} is {_shown(value.value)}, which is not a valid {value.kind}") from None


def _shown(value: Any) -> str:
    return repr(value)[:60]
