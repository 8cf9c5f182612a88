"""Files that stand beside a checkpoint and belong to it: tokenizer, its settings, chat template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, TokenizerError
from aprnb.formats import json_files

MAX_SIBLING_BYTES = 256 * 1024**2  # the largest published tokenizer.json has some 35 MB


@dataclass(frozen=True)
class Siblings:
    """Paths of what was found; None where there is nothing."""

    tokenizer: Path | None = None
    settings: Path | None = None
    template: Path | None = None


def find_siblings(beside: Path | None) -> Siblings:
    """What stands beside `beside`, a checkpoint or its folder; names that begin with the checkpoint's stem go first."""
    if beside is None:
        return Siblings()
    folder, stem = (beside, None) if beside.is_dir() else (beside.parent, beside.stem)

    def found(name: str) -> Path | None:
        names = [f"{stem}.{name}", name] if stem else [name]
        return next((folder / each for each in names if (folder / each).is_file()), None)

    return Siblings(found("tokenizer.json"), found("tokenizer_config.json"), found("chat_template.jinja"))


def read_text(path: Path) -> str:
    """The file's UTF-8 text; raises TokenizerError where it is too large or no text."""
    size = path.stat().st_size
    if size > MAX_SIBLING_BYTES:
        raise TokenizerError(f"{path} has {size:,} bytes", expected=f"at most {MAX_SIBLING_BYTES:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise TokenizerError(f"{path} is not UTF-8 text", where=f"byte {problem.start:,}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The file's JSON object; raises TokenizerError that names the file."""
    try:
        return json_files.read_object(path, MAX_SIBLING_BYTES, json_files.MAX_TOKENIZER_VALUES)
    except (CheckpointError, FileMissing) as problem:
        raise TokenizerError(problem.found, expected=problem.expected, where=problem.where) from None
