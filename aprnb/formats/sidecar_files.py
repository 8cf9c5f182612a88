"""Files beside a checkpoint: names that stay inside its folder, links that do not lead out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aprnb.errors import CheckpointError
from aprnb.formats.source import is_file, is_folder, is_link


@dataclass(frozen=True)
class Sidecars:
    """Paths of the tokenizer files beside a checkpoint; None where there is none."""

    tokenizer: Path | None = None
    settings: Path | None = None
    template: Path | None = None


def find_sidecars(checkpoint: Path | None) -> Sidecars:
    """The tokenizer files beside `checkpoint`, a file or a folder; `STEM.tokenizer.json` goes before `tokenizer.json`.

    Links are not looked at: whoever reads a file of the result goes through `safe_path`.
    """
    if checkpoint is None:
        return Sidecars()
    folder, stem = (checkpoint, None) if is_folder(checkpoint) else (checkpoint.parent, checkpoint.stem)

    def found(name: str) -> Path | None:
        names = [f"{stem}.{name}", name] if stem else [name]
        return next((folder / each for each in names if is_file(folder / each)), None)

    return Sidecars(found("tokenizer.json"), found("tokenizer_config.json"), found("chat_template.jinja"))


def find_sidecar(folder: Path, name: str) -> Path | None:
    """The path of the file `name` in `folder`; None where there is none, or no regular one.

    Raises CheckpointError for a link that leads out of the folder.
    """
    return safe_path(folder, name) if is_file(folder / name) else None


def safe_path(folder: Path, name: str) -> Path:
    """The path of `name`, a file of `folder` itself.

    Raises CheckpointError for a name with a path in it and for a link that leads out of the folder. Allowed are the
    links of the Hugging Face hub's cache, from `snapshots/REVISION` into the `blobs` beside `snapshots`. A hard link
    is the file itself and cannot be told from it.
    """
    path = folder / name
    if name in ("", ".", "..") or "\0" in name or "/" in name or "\\" in name or path.name != name:
        raise CheckpointError(f"{folder} names the file {name[:80]!r}", expected="a plain file name, without a path")
    if is_link(path) and _target_folder(path) not in _homes(folder.resolve()):
        raise CheckpointError(
            f"{path} is a link to {path.resolve()}", expected="a file inside the folder",
            action="copy the file into the folder",
        )  # fmt: skip
    return path


def _target_folder(link: Path) -> Path:
    try:
        return link.resolve(strict=True).parent
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise CheckpointError(f"{link} is a link that leads nowhere") from error


def _homes(folder: Path) -> tuple[Path, ...]:
    """The folders in which links of `folder` may end."""
    return (folder, *(above.parent / "blobs" for above in folder.parents if above.name == "snapshots"))
