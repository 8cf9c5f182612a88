"""Folders that arrive whole: filled beside their target, synced, renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aprnb.errors import OutputError
from aprnb.formats.atomic import require_writable

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_folder(target: Path, force: bool = False) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` when the block ends well and vanishes when it does not.

    Raises OutputExists where `target` is there already (unless `force`) and OutputError where writing fails.
    """
    require_writable(target, force)
    filling = target.with_name(f".{target.name}.{os.getpid()}.part")
    former = target.with_name(f".{target.name}.{os.getpid()}.former")
    try:
        shutil.rmtree(filling, ignore_errors=True)
        filling.mkdir()
        yield filling
        for path in (*filling.iterdir(), filling):
            _sync(path)
        require_writable(target, force)
        if target.exists():
            target.rename(former)
        filling.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise OutputError(f"{target} could not be written: {error.strerror}") from error
    finally:
        for leftover in (filling, former):
            shutil.rmtree(leftover, ignore_errors=True)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file of copies on the CPU: the format refuses tensors that share memory."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    try:
        save_file(copies, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OutputError(f"{path} could not be written: {error}") from error


def _sync(path: Path) -> None:
    # Windows opens no folders, and a rename is durable there without it.
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
