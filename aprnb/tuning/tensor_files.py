"""Tensors in safetensors files: written one by one, read without a memory map."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.dtype_names import TORCH_NAMES
from aprnb.errors import CheckpointError
from aprnb.formats.contents import TensorEntry
from aprnb.formats.huggingface.safetensors import LENGTH_BYTES, read_shard
from aprnb.formats.source import ByteSource

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {in_torch: name for name, in_torch in TORCH_NAMES.items()}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file, one tensor after the other: none is copied unless it is on a GPU or not contiguous.

    Ordered by the size of an element and by name, as the library orders them, so that every tensor is aligned.
    Raises OSError.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered.items():
        start, end = end, end + tensor.nbytes
        dtype = _NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for tensor in ordered.values():
            file.write(_bytes_of(tensor))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's elements in C order."""
    import torch

    return memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


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
