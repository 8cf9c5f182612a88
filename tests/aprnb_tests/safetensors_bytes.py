"""Writes safetensors files byte by byte, and Hugging Face folders out of the shipped checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aprnb

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 988097824\n"
"""What a clone without git-lfs has in place of a large file."""


def file_of(header: Any, data: bytes = b"") -> bytes:
    """Length, header and data; the header may be bytes that are no JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def info(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def small_file(**changes: Any) -> bytes:
    """`a`: four F32, then `b`: two BF16; `changes` replace entries."""
    header = {"a": info("F32", [2, 2], 0, 16), "b": info("BF16", [2], 16, 20), **changes}
    return file_of(header, bytes(range(20)))


def packed(tensors: Mapping[str, tuple[str, Sequence[int], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, payload) in tensors.items():
        header[name] = info(dtype, shape, len(data), len(data) + len(payload))
        data += payload
    return file_of({"__metadata__": {"format": "pt"}, **header}, data)


def weights_of(path: Path) -> dict[str, tuple[str, Sequence[int], bytes]]:
    """Every tensor of a checkpoint that stores plain floats, without the tied head's placeholder."""
    with aprnb.open(path) as checkpoint:
        return {
            name: (entry.dtype.name, entry.shape, checkpoint.raw(name))
            for name, entry in checkpoint.tensors.items()
            if entry.size_bytes
        }


def folder_of(checkpoint: Path, source: Path, folder: Path, shards: int = 0) -> Path:
    """A Hugging Face folder: `source`'s config and tokenizer, the checkpoint's weights in `shards` files or one."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copyfile(file, folder / file.name)
    tensors = weights_of(checkpoint)
    if not shards:
        (folder / "model.safetensors").write_bytes(packed(tensors))
        return folder
    names = list(tensors)
    weight_map = {}
    for number in range(shards):
        file_name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        chosen = names[number::shards]
        (folder / file_name).write_bytes(packed({name: tensors[name] for name in chosen}))
        weight_map |= dict.fromkeys(chosen, file_name)
    index = {"metadata": {"total_size": sum(len(data) for *_, data in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
