"""Tensors in safetensors files: written as copies, read without a memory map."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from aprnb.dtype_names import TORCH_NAMES
from aprnb.errors import CheckpointError
from aprnb.formats.atomic import umask
from aprnb.formats.contents import TensorEntry
from aprnb.formats.huggingface.safetensors import read_shard
from aprnb.formats.source import ByteSource

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file of copies on the CPU (the format has no tensors that share memory); raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    try:
        save_file(copies, path, metadata={"format": "pt"})
        path.chmod(0o666 & ~umask())
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def read_tensors(path: Path, most_bytes: int) -> dict[str, Tensor]:
    """The tensors of a safetensors file of at most `most_bytes`, each copied: the file may change.

    Raises FileMissing, or CheckpointError for a file that is too large or malformed.
    """
    with closing(ByteSource(path)) as source:
        if source.size_bytes > most_bytes:
            raise CheckpointError(f"{path} takes {source.size_bytes:,} bytes", expected=f"at most {most_bytes:,}")
        shard = read_shard(source)
        return {name: _read_tensor(source, shard.data_start, entry) for name, entry in shard.tensors.items()}


def _read_tensor(source: ByteSource, data_start: int, entry: TensorEntry) -> Tensor:
    import torch

    name = TORCH_NAMES.get(entry.dtype.name)
    if name is None:
        raise CheckpointError(f"{source.path} holds {entry.name} as {entry.dtype.name}", expected="a dtype of torch")
    if not entry.size_bytes:
        return torch.empty(entry.shape, dtype=getattr(torch, name))
    raw = source.read(data_start + entry.offset, entry.size_bytes, f"tensor {entry.name}")
    return torch.frombuffer(raw, dtype=getattr(torch, name)).reshape(entry.shape)
