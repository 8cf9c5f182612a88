"""Folders that arrive whole: filled beside their target, synced, renamed into place."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aprnb.formats.atomic import failed_to_write, require_writable, sync, umask

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
            sync(path)
        require_writable(target, force)
        if target.exists():
            target.rename(former)
        filling.rename(target)
        sync(target.parent)
    except OSError as error:
        raise failed_to_write(target, error) from error
    finally:
        for leftover in (filling, former):
            shutil.rmtree(leftover, ignore_errors=True)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file of copies on the CPU (the format refuses tensors that share memory); raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    try:
        save_file(copies, path, metadata={"format": "pt"})
        path.chmod(0o666 & ~umask())
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
