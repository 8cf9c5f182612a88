"""Reads tokenizer files, beside a checkpoint or named by a person; what is wrong with them is a TokenizerError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, TokenizerError
from aprnb.formats import json_files
from aprnb.formats.sidecar_files import safe_path


def sidecar_object(path: Path) -> dict[str, Any]:
    """`read_object` of a file beside a checkpoint, which no link may lead out of its folder."""
    with as_tokenizer_error():
        return json_files.read_object(safe_path(path.parent, path.name), most=json_files.MAX_TOKENIZER_VALUES)


def read_text(path: Path) -> str:
    """The UTF-8 text of a file that a person named; raises TokenizerError where it is too large or no text."""
    with as_tokenizer_error():
        return json_files.read_text(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that a person named; raises TokenizerError that names the file."""
    with as_tokenizer_error():
        return json_files.read_object(path)


@contextmanager
def as_tokenizer_error() -> Iterator[None]:
    """Turns what reading a file raises into TokenizerError."""
    try:
        yield
    except (CheckpointError, FileMissing) as error:
        raise TokenizerError(error.found, expected=error.expected, where=error.where, action=error.action) from None
