"""Reads GGUF files, versions 1 to 3, little-endian, whole or split: header, key/values and tensor infos, all checked.

Layout: magic, version (u32), tensor count, key count; per key its name, type and value; per tensor its name, dimension
count (u32), dimensions (fastest first), type (u32) and offset (u64); then, on a multiple of `general.alignment`, data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from aprnb.errors import CheckpointError, FileMissing, TruncatedFile, UnsupportedFormat
from aprnb.formats.contents import MAX_ELEMENTS, Contents, DataFile, TensorEntry
from aprnb.formats.dtypes import GGML, GGML_REMOVED
from aprnb.formats.gguf.adapter import reject_adapter
from aprnb.formats.gguf.front import MAX_KEYS, MAX_TENSORS, Budget, Front
from aprnb.formats.gguf.metadata import apr_metadata
from aprnb.formats.gguf.values import GgufValue, Values
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import ByteSource, is_file
from aprnb.printable import first_names

MAGIC = b"GGUF"
MAX_GGML_DIMS = 4
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 16
_MAX_PARTS = 4096
_PART_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


@dataclass(frozen=True)
class _Part:
    """One file: the whole, or a part of a split one."""

    source: ByteSource
    version: int
    values: Mapping[str, GgufValue]
    tensors: dict[str, TensorEntry]
    data_start: int

    def integer(self, key: str, default: int) -> int:
        found = self.values.get(key)
        if found is None:
            return default
        if isinstance(found.value, bool) or not isinstance(found.value, int):
            raise CheckpointError(f"{self.source.path}: {key} is of type {found.kind}", expected="an integer")
        return found.value


def read_gguf(source: ByteSource) -> Contents:
    """The file's contents, those of its further parts included.

    Raises CheckpointError with the byte offset for every invalid length, count, offset or name, FileMissing
    for a part that is not there, UnsupportedFormat for an adapter.
    """
    budget = Budget()
    first = _read_part(source, 0, budget)
    reject_adapter(source.path, first.values, first.tensors)
    opened: list[ByteSource] = []
    try:
        opened += map(ByteSource, _further_parts(first))
        parts = (first, *(_read_part(further, number, budget) for number, further in enumerate(opened, 1)))
        tensors = _joined(parts)
        metadata, warnings = apr_metadata(first.values, tensors)
    except BaseException:
        for further in opened:
            further.close()
        raise
    return Contents(
        format="gguf",
        version=str(first.version),
        metadata=metadata,
        tensors=tensors,
        files=tuple(DataFile(part.source, part.data_start) for part in parts),
        warnings=tuple(warnings),
    )


def _read_part(source: ByteSource, number: int, budget: Budget) -> _Part:
    front = Front(source, budget)
    value = Values(front)
    tensor_count, key_count = _read_header(front)
    values: dict[str, GgufValue] = {}
    for _ in range(key_count):
        at = front.position
        key = front.name("a metadata key")
        if key in values:
            raise front.error(f"metadata key {key[:80]!r} appears twice", at=at)
        values[key] = value.read(key[:80])
    infos: dict[str, tuple[TensorEntry, int]] = {}
    for _ in range(tensor_count):
        at = front.position
        entry = _read_info(front, number)
        if entry.name in infos:
            raise front.error(f"tensor {entry.name!r} appears twice", at=at)
        infos[entry.name] = entry, front.position - 8
    alignment = _alignment(front, values)
    data_start = -(-front.position // alignment) * alignment
    _check_extents(front, infos, alignment, data_start)
    if number:
        values = {key: value for key, value in values.items() if key.startswith("split.")}
    return _Part(source, front.version, values, {name: entry for name, (entry, _) in infos.items()}, data_start)


def _read_header(front: Front) -> tuple[int, int]:
    """Tensor count and key count; sets the version by which the rest is read."""
    front.require(8, "the header")
    if front.number("4s", "the magic") != MAGIC:
        raise UnsupportedFormat(f"{front.source.path} is not a GGUF file", expected="magic GGUF at byte 0")
    version = int(front.number("I", "the version"))
    if version and version & 0xFFFF == 0:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        raise UnsupportedFormat(
            f"{front.source.path} is a big-endian GGUF file (version {swapped})", expected="a little-endian one",
            where="byte 4", action="convert it with gguf_convert_endian.py of llama.cpp",
        )  # fmt: skip
    if version not in (1, 2, 3):
        raise UnsupportedFormat(f"{front.source.path} is GGUF version {version}", expected="1, 2 or 3", where="byte 4")
    front.version = version
    narrow = version == 1
    tensor_count = front.count("the tensor count", 20 if narrow else 24)
    front.budget.tensors = _spend(front, tensor_count, front.budget.tensors, MAX_TENSORS, "the tensor count", 8)
    at = front.position
    key_count = front.count("the key count", 9 if narrow else 13)
    front.budget.keys = _spend(front, key_count, front.budget.keys, MAX_KEYS, "the key count", at)
    return tensor_count, key_count


def _spend(front: Front, count: int, left: int, limit: int, what: str, at: int) -> int:
    """What is left of `limit` after `count` more; raises where that is negative."""
    if count > left:
        parts = "" if left == limit else f" after those of the parts before ({limit:,} in all)"
        raise front.error(f"{what} is {count:,}", expected=f"at most {left:,}{parts}", at=at)
    return left - count


def _read_info(front: Front, number: int) -> TensorEntry:
    name = front.name("a tensor name")
    at, what = front.position, f"the info of tensor {name[:80]!r}"
    rank = int(front.number("I", what))
    if rank > MAX_GGML_DIMS:
        raise front.error(f"tensor {name[:80]!r} has {rank:,} dimensions", expected=f"at most {MAX_GGML_DIMS}", at=at)
    *dims, code, offset = front.numbers(f"{rank}{'I' if front.version == 1 else 'Q'}IQ", what)
    shape, elements = tuple(reversed(dims)), prod(dims)
    if max(dims, default=1) > MAX_ELEMENTS or elements > MAX_ELEMENTS:
        raise front.error(
            f"tensor {name[:80]!r} has dimensions {list(shape)}",
            expected=f"at most {MAX_ELEMENTS:,} elements",
            at=at + 4,
        )
    dtype, code_at = GGML.get(code), front.position - 12
    if dtype is None:
        known = f" ({GGML_REMOVED[code]}, which llama.cpp has removed)" if code in GGML_REMOVED else ""
        found = f"tensor {name[:80]!r} has element type {code}{known}"
        raise front.error(found, expected="a known GGML type", at=code_at)
    if dtype.block_elements > 1 and (not shape or shape[-1] % dtype.block_elements):
        raise front.error(
            f"tensor {name[:80]!r} has rows of {shape[-1] if shape else 1:,} elements in {dtype.name}",
            expected=f"a multiple of {dtype.block_elements}", at=code_at,
        )  # fmt: skip
    return TensorEntry(name, dtype, shape, offset, dtype.flat_size_bytes(elements), number)


def _alignment(front: Front, values: Mapping[str, GgufValue]) -> int:
    found = values.get("general.alignment", GgufValue("uint32", _DEFAULT_ALIGNMENT)).value
    if not isinstance(found, int) or not 1 <= found <= _MAX_ALIGNMENT or found & (found - 1):
        raise front.error(
            f"general.alignment is {str(found)[:40]}", expected=f"a power of two up to {_MAX_ALIGNMENT:,}"
        )
    return found


def _check_extents(front: Front, infos: Mapping[str, tuple[TensorEntry, int]], alignment: int, data_start: int) -> None:
    """Checks that every tensor is aligned, inside the file and without overlap; errors name the info's byte."""
    room, reached, before = front.source.size_bytes - data_start, 0, ""
    for entry, at in sorted(infos.values(), key=lambda info: (info[0].offset, info[0].size_bytes)):
        if entry.offset % alignment:
            raise front.error(
                f"tensor {entry.name!r} has offset {entry.offset:,}", expected=f"a multiple of {alignment}", at=at
            )
        if entry.offset < reached and entry.size_bytes:
            raise front.error(f"tensors {before!r} and {entry.name!r} overlap at data byte {entry.offset:,}", at=at)
        if entry.size_bytes and entry.offset + entry.size_bytes > room:
            start = data_start + entry.offset
            raise TruncatedFile(
                f"{front.source.path} ends at byte {front.source.size_bytes:,}, inside tensor {entry.name!r}",
                expected=f"bytes {start:,} to {start + entry.size_bytes:,}",
                where=f"byte {at:,}",
            )
        reached, before = max(reached, entry.offset + entry.size_bytes), entry.name


def _further_parts(first: _Part) -> list[Path]:
    """The files of a split model after the first; none for a whole one."""
    count, number = first.integer("split.count", 1), first.integer("split.no", 0)
    if count <= 1:
        return []
    path = first.source.path
    if not 0 <= number < count <= _MAX_PARTS:
        raise CheckpointError(f"{path} is part {number + 1} of {count}", expected=f"at most {_MAX_PARTS:,} parts")
    match = _PART_NAME.fullmatch(path.name)
    if match is None or (int(match[2]), int(match[3])) != (number + 1, count):
        raise CheckpointError(
            f"{path} is part {number + 1} of a model split in {count}",
            expected=f"a name that ends in -{number + 1:05d}-of-{count:05d}.gguf",
            action="rename the parts to their original names",
        )
    names = [f"{match[1]}-{at + 1:05d}-of-{count:05d}.gguf" for at in range(count)]
    if number:
        raise CheckpointError(f"{path} is part {number + 1} of {count}", action=f"open the first part, {names[0]}")
    missing = [name for name in names if not is_file(path.parent / name)]
    if missing:
        raise FileMissing(
            f"{path} is the first of {count} parts; {first_names(missing, 3)} missing",
            action=f"put all {count} parts into {path.parent}",
        )
    return [safe_path(path.parent, name) for name in names[1:]]


def _joined(parts: tuple[_Part, ...]) -> dict[str, TensorEntry]:
    """All parts' tensors, each with the number of its file; raises where the parts are not of one model."""
    tensors: dict[str, TensorEntry] = {}
    count = parts[0].integer("split.count", 1)
    for number, part in enumerate(parts):
        if len(parts) > 1 and (part.integer("split.no", -1), part.integer("split.count", -1)) != (number, count):
            raise CheckpointError(f"{part.source.path} does not say that it is part {number + 1} of {count}")
        for name, entry in part.tensors.items():
            if name in tensors:
                raise CheckpointError(f"tensor {name!r} is in {part.source.path} and in an earlier part")
            tensors[name] = entry
    total = parts[0].integer("split.tensors.count", len(tensors))
    if len(parts) > 1 and total != len(tensors):
        raise CheckpointError(
            f"the parts of {parts[0].source.path} hold {len(tensors):,} tensors", expected=f"{total:,}"
        )
    return tensors
