"""JSON files beside or inside a checkpoint folder: bounded, and refused by name where they are no object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing

MAX_JSON_BYTES = 256 << 20
"""The largest published tokenizer.json has some 35 MB."""


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """The UTF-8 text of a regular file; raises FileMissing or CheckpointError."""
    if not path.is_file():
        raise FileMissing(f"no file at {path}")
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"{path} takes {size:,} bytes", expected=f"at most {limit:,}")
    try:
        return path.read_bytes()[: limit + 1].decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text", where=f"byte {error.start:,}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def read_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises FileMissing or CheckpointError that names it."""
    try:
        parsed = json.loads(read_text(path, limit))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON ({error.msg})", where=f"line {error.lineno}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{path} is refused: {reason}") from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path} holds a JSON {type(parsed).__name__}", expected="an object")
    return parsed
