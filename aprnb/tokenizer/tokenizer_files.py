"""The sidecar files of a checkpoint's tokenizer; an invalid file raises TokenizerError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, TokenizerError
from aprnb.formats.json_files import MAX_JSON_BYTES, read_object
from aprnb.formats.json_memory import MAX_VALUES
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import is_file, is_folder, read_bytes


@dataclass(frozen=True)
class TokenizerFiles:
    """Paths of the sidecar files; None for a missing one."""

    tokenizer: Path | None = None
    settings: Path | None = None
    template: Path | None = None


def find_tokenizer_files(checkpoint: Path | None) -> TokenizerFiles:
    """The tokenizer files of `checkpoint`, a file or a folder; `STEM.tokenizer.json` takes precedence.

    Links are not followed or checked here: the readers below do that.
    """
    if checkpoint is None:
        return TokenizerFiles()
    folder, stem = (checkpoint, None) if is_folder(checkpoint) else (checkpoint.parent, checkpoint.stem)

    def found(name: str) -> Path | None:
        names = [f"{stem}.{name}", name] if stem else [name]
        return next((folder / each for each in names if is_file(folder / each)), None)

    return TokenizerFiles(found("tokenizer.json"), found("tokenizer_config.json"), found("chat_template.jinja"))


def sidecar_bytes(path: Path) -> bytes:
    """The bytes of a sidecar file; a link must not lead out of the folder."""
    with as_tokenizer_error():
        return read_bytes(safe_path(path.parent, path.name), MAX_JSON_BYTES)


def sidecar_object(path: Path, most: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object in a sidecar file, like `sidecar_bytes`; `most` bounds its values."""
    with as_tokenizer_error():
        return read_object(safe_path(path.parent, path.name), most=most)


@contextmanager
def as_tokenizer_error() -> Iterator[None]:
    """Turns what reading a file raises into TokenizerError."""
    try:
        yield
    except (CheckpointError, FileMissing) as error:
        raise TokenizerError(error.found, expected=error.expected, where=error.where, action=error.action) from None
