"""A conversion's result as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprnb.display.document import Block, Document, Fields, Messages, Status
from aprnb.units import bytes_text, duration_text

if TYPE_CHECKING:
    from aprnb.conversion.convert import Converted


def converted_document(converted: Converted) -> Document:
    blocks: list[Block] = [
        Fields(
            (
                ("from", str(converted.source), ""),
                ("to", str(converted.path), converted.format),
                ("tensors", converted.tensors, ""),
                ("size", bytes_text(converted.size_bytes), f"{converted.size_bytes:,} bytes"),
                ("time", duration_text(converted.seconds), ""),
            )
        )
    ]
    if converted.warnings:
        blocks.append(Messages("warning", converted.warnings))
    status: Status = "warning" if converted.warnings else "ok"
    return Document(f"Converted {converted.path.name}", status, tuple(blocks))
