"""Reads safetensors files: the length of the header (u64), the header as JSON, then the tensors without gaps.

Every entry is checked before a tensor is exposed, as the format requires: known dtypes, sizes that follow from the
shapes, offsets that start at 0, touch each other and end with the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from aprnb.dtype_names import SAFETENSORS
from aprnb.errors import CheckpointError, TruncatedFile
from aprnb.formats.contents import MAX_DIMS, MAX_ELEMENTS, TensorEntry
from aprnb.formats.dtypes import BY_NAME, DType
from aprnb.formats.json_text import read_json
from aprnb.formats.source import ByteSource, require_no_pointer
from aprnb.printable import short

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

LENGTH_BYTES = 8
_DTYPES: Mapping[str, DType] = {dtype.name: BY_NAME[dtype.name] for dtype in SAFETENSORS}
_ABOUT = "__metadata__"


@dataclass(frozen=True)
class Shard:
    """One file: its tensors, what its `__metadata__` says, and where its data begins."""

    source: ByteSource
    tensors: dict[str, TensorEntry]
    about: dict[str, str]
    data_start: int


def is_safetensors(head: bytes) -> bool:
    """Whether a file that starts with these bytes (at least nine) has a safetensors header."""
    return head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and int.from_bytes(head[:LENGTH_BYTES], "little") < 1 << 32


def read_shard(source: ByteSource, number: int = 0) -> Shard:
    """The file's tensors as entries of file `number`.

    Raises CheckpointError with the byte offset for an invalid header, TruncatedFile with the first missing
    tensor.
    """
    head = source.read(0, LENGTH_BYTES, "the length of the header")
    require_no_pointer(head, source.path)
    length = int.from_bytes(head, "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{source.path} claims a header of {length:,} bytes", expected=f"at most {MAX_HEADER_BYTES:,}",
            where="byte 0",
        )  # fmt: skip
    header = _Header(source, length)
    parsed = header.parse()
    about = header.about(parsed.pop(_ABOUT, {}))
    tensors = {name: header.entry(name, info, number) for name, info in parsed.items()}
    header.check_extents(tensors)
    return Shard(source, tensors, about, LENGTH_BYTES + length)


@dataclass(frozen=True)
class _Header:
    source: ByteSource
    length: int

    def read(self) -> bytearray:
        return self.source.read(LENGTH_BYTES, self.length, "the header")

    def parse(self) -> dict[str, Any]:
        if self.source.read(LENGTH_BYTES, 1, "the header") != b"{":
            raise self._error("the safetensors header does not start with a JSON object", at=LENGTH_BYTES)
        what = f"the safetensors header of {self.source.path}"
        try:
            return read_json(self.read, what, LENGTH_BYTES, self.source.size_bytes, pairs=_without_repeats)
        except _Repeated as error:
            raise self._error(
                f"the safetensors header names {error.args[0][:80]!r} twice", name=error.args[0]
            ) from None

    def about(self, found: Any) -> dict[str, str]:
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise self._error(f"{_ABOUT} is {short(found)}", name=_ABOUT, expected="an object of strings")
        return found

    def entry(self, name: str, info: Any, number: int) -> TensorEntry:
        """The entry as the header states it; its place in the file is checked with the others'."""
        if not isinstance(info, dict):
            raise self._error(f"tensor {name[:80]!r} is {short(info)}", name=name, expected="an object")
        dtype = _DTYPES.get(info["dtype"]) if isinstance(info.get("dtype"), str) else None
        if dtype is None:
            raise self._error(
                f"tensor {name[:80]!r} has dtype {short(info.get('dtype'))}", name=name,
                expected=f"one of {', '.join(_DTYPES)}",
            )  # fmt: skip
        shape: Any = info.get("shape")
        offsets: Any = info.get("data_offsets")
        if not _are_counts(shape) or len(shape) > MAX_DIMS or prod(shape) > MAX_ELEMENTS:
            raise self._error(
                f"tensor {name[:80]!r} has shape {short(shape)}", name=name,
                expected=f"at most {MAX_DIMS} dimensions and {MAX_ELEMENTS:,} elements",
            )  # fmt: skip
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self._error(
                f"tensor {name[:80]!r} has data_offsets {short(offsets)}", name=name, expected="[begin, end]"
            )
        if prod(shape) % dtype.block_elements:
            raise self._error(
                f"tensor {name[:80]!r} has {prod(shape):,} elements in {dtype.name}", name=name,
                expected=f"a multiple of {dtype.block_elements}, which ends with a byte",
            )  # fmt: skip
        size = dtype.flat_size_bytes(prod(shape))
        if offsets[1] - offsets[0] != size:
            raise self._error(
                f"tensor {name[:80]!r} takes {offsets[1] - offsets[0]:,} bytes", name=name,
                expected=f"{size:,} for {dtype.name} {shape}",
            )  # fmt: skip
        return TensorEntry(name, dtype, tuple(shape), offsets[0], size, number)

    def check_extents(self, tensors: Mapping[str, TensorEntry]) -> None:
        """Check that the tensors fill the rest of the file without gaps."""
        start = LENGTH_BYTES + self.length
        reached, before = 0, ""
        for entry in sorted(tensors.values(), key=lambda entry: (entry.offset, entry.size_bytes)):
            if entry.offset != reached:
                what = f"overlaps {before!r}" if entry.offset < reached else f"leaves a gap after {before!r}"
                raise self._error(
                    f"tensor {entry.name!r} starts at data byte {entry.offset:,} and {what}", name=entry.name,
                    expected=f"{reached:,}",
                )  # fmt: skip
            reached, before = entry.offset + entry.size_bytes, entry.name
            if start + reached > self.source.size_bytes:
                raise TruncatedFile(
                    f"{self.source.path} ends at byte {self.source.size_bytes:,}, inside tensor {entry.name!r}",
                    expected=f"bytes {start + entry.offset:,} to {start + reached:,}",
                    where=f"byte {self.source.size_bytes:,}",
                )
        if start + reached != self.source.size_bytes:
            extra = self.source.size_bytes - start - reached
            raise self._error(f"{extra:,} bytes follow the last tensor", at=start + reached, expected="none")

    def _error(
        self, found: str, *, at: int | None = None, name: str | None = None, expected: str | None = None
    ) -> CheckpointError:
        """The error at byte `at`, or where `name` is in the header."""
        if at is None:
            place = self.read().rfind(json.dumps(name or "", ensure_ascii=False).encode("utf-8", "surrogatepass"))
            at = LENGTH_BYTES + max(0, place)
        return CheckpointError(f"{self.source.path}: {found}", expected=expected, where=f"byte {at:,}")


class _Repeated(Exception):
    pass


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _Repeated(next(name for name, count in counts.items() if count > 1))
    return found


def _are_counts(values: Any) -> bool:
    return type(values) is list and all(type(value) is int and 0 <= value <= 1 << 62 for value in values)
