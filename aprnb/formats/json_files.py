"""Reads JSON and text files of bounded size; errors name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.json_memory import MAX_VALUES
from aprnb.formats.metadata import read_metadata
from aprnb.formats.source import read_bytes

MAX_JSON_BYTES = 64 << 20
"""The largest published tokenizer.json has some 35 MB."""
MAX_TOKENIZER_VALUES = 1 << 22
"""The same file has 260,000 tokens and 580,000 merges: 2.8 million, a key counted as four."""


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """The UTF-8 text of a regular file; raises FileMissing or CheckpointError."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text", where=f"byte {error.start:,}") from None


def read_object(path: Path, limit: int = MAX_JSON_BYTES, most: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes and about `most` values.

    Raises FileMissing, or CheckpointError that names the file and its byte: also for a key with two values.
    """
    parsed, repeated = read_metadata(lambda: read_bytes(path, limit), path, 0, _size(path), most)
    twice = next((key for key, disagree in repeated if disagree), None)
    if twice is not None:
        raise CheckpointError(f"{path} gives {twice[:80]!r} two values", expected="one value")
    return parsed


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # reading the file raises an error that says what is wrong
        return 0
