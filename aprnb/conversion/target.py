"""The target of a conversion: the format that its name stands for, whether it can be written, and its size."""

from __future__ import annotations

import os
from pathlib import Path

from aprnb.conversion.plan import Kind
from aprnb.errors import OutputExists, UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.atomic import require_place_of_file, require_place_of_folder

MODEL_FILES = (
    "config.json", "generation_config.json", "README.md", "model.safetensors", "model.safetensors.index.json",
    "model-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].safetensors", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
"""Names of a model's own files: a folder that `--force` replaces holds no others."""


def require_apart(target: Path, checkpoint: Checkpoint, *others: Path) -> None:
    """Raises UsageProblem where the target is a file of the checkpoint or one of `others`, or a folder around one."""
    path = target.absolute().parent.resolve() / target.name
    others = tuple(other for other in others if os.path.lexists(other))  # reading it says what is wrong with another
    for read in (checkpoint.path, *(file.source.path for file in checkpoint.contents.files), *others):
        if read.resolve() in (path, target.resolve()) or path in read.resolve().parents:
            raise UsageProblem(f"{target} would overwrite {read}, which is read", action="give the target another name")


def require_place(path: Path, kind: Kind, force: bool) -> None:
    """Raises where the target exists (unless `force`) or cannot be written, before work starts."""
    if kind != "huggingface":
        require_place_of_file(path, force)
        return
    if force and path.is_dir() and any(path.iterdir()) and not (path / "config.json").is_file():
        raise OutputExists(f"{path} exists and is not a model folder; it is not replaced", action="choose another name")
    require_place_of_folder(path, force, MODEL_FILES)


def target_kind(path: Path) -> Kind:
    """The format that a target's name stands for; raises UsageProblem for an invalid name or an unsupported ending."""
    try:
        path.resolve().exists()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageProblem(f"{str(path)[:80]!r} is not a valid target name: {reason}") from None
    kinds: dict[str, Kind] = {".apr": "apr", ".gguf": "gguf", ".safetensors": "safetensors"}
    ending = path.suffix.lower()
    if ending in (".bin", ".pt", ".pth", ".onnx", ".json", ".npz", ".h5"):
        raise UsageProblem(f"{path} cannot be written", expected=".apr, .gguf, .safetensors, or the name of a folder")
    return kinds.get(ending, "huggingface")


def written_size(path: Path) -> int:
    """Bytes of the file, or of the files in the folder."""
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)
