"""Checks where the tensors of an index are in the file: inside it, without overlap, aligned and without gaps."""

from __future__ import annotations

from collections.abc import Iterable

from aprnb.errors import CheckpointError, TruncatedFile
from aprnb.formats.apr.header import ALIGNMENT, align
from aprnb.formats.contents import TensorEntry
from aprnb.printable import and_more, shown_name


def check_extents(
    entries: Iterable[TensorEntry], data_offset: int, path: object, size_bytes: int
) -> tuple[int, list[str]]:
    """The byte where the last tensor's padding ends, and warnings, each with its byte.

    Raises TruncatedFile that names the first missing byte, CheckpointError for two tensors in one place.
    """
    placed = sorted((entry for entry in entries if entry.size_bytes), key=lambda entry: entry.offset)
    misaligned: list[TensorEntry] = []
    end = 0
    unused = first_unused = 0
    before: TensorEntry | None = None
    for entry in placed:
        if before and before.offset + before.size_bytes > entry.offset:
            where = f"byte {data_offset + entry.offset:,} of {path}"
            raise CheckpointError(
                f"tensors {shown_name(before.name)} and {shown_name(entry.name)} overlap", where=where
            )
        if entry.offset % ALIGNMENT:
            misaligned.append(entry)
        if entry.offset > align(end):
            first_unused = first_unused or data_offset + align(end)
            unused += entry.offset - align(end)
        end = entry.offset + entry.size_bytes
        if data_offset + (end if entry.offset % ALIGNMENT else align(end)) > size_bytes:
            raise _torn(entry, data_offset, path, size_bytes)
        before = entry
    warnings = []
    if misaligned:
        first = misaligned[0]
        place = (shown_name(first.name), f"byte {data_offset + first.offset:,}", and_more(len(misaligned) - 1))
        text = "a tensor does not start on a multiple of 64 in the data section"
        warnings.append(f"{text} ({', '.join(filter(None, place))})")
    if unused:
        warnings.append(f"{unused:,} bytes of the data section belong to no tensor (from byte {first_unused:,})")
    return min(data_offset + align(end), size_bytes), warnings


def _torn(entry: TensorEntry, data_offset: int, path: object, size_bytes: int) -> TruncatedFile:
    start = data_offset + entry.offset
    part = "" if start + entry.size_bytes > size_bytes else "the padding after "
    return TruncatedFile(
        f"{path} ends at byte {size_bytes:,}: byte {max(start, size_bytes):,} is the first one missing "
        f"of {part}{shown_name(entry.name)}",
        expected=f"bytes {start:,} to {start + align(entry.size_bytes):,}",
    )
