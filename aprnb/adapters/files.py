"""Reads adapter folders, which are untrusted: bounded, never a pickle, only finite floats, exact names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aprnb.adapters.config import MERGE_WITH_PEFT, AdapterConfig, read_config
from aprnb.adapters.names import PREFIX, RENAME, Key, adapter_names, read_key
from aprnb.errors import CheckpointError, FileMissing, UnsupportedFormat, UsageProblem
from aprnb.formats.codecs import decode
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.contents import TensorEntry
from aprnb.formats.huggingface.folder import weight_map
from aprnb.formats.huggingface.safetensors import read_shard
from aprnb.formats.json_files import read_object
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import ByteSource, is_file, is_folder
from aprnb.printable import first_names

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
RECORD_NAME = "aprnb.json"
"""What a run of ours adds to PEFT's two files: a list of the three, and the content of the base."""
INDEX_NAME, PICKLE_NAME = "adapter_model.safetensors.index.json", "adapter_model.bin"
MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES = 1 << 20, 64 << 30


@dataclass(frozen=True)
class AdapterFiles:
    """A folder that was read: its config, and its tensors as float32 under their parsed names."""

    folder: Path
    config: AdapterConfig
    tensors: Mapping[Key, Floats]

    def misfit(self, found: str, expected: str, action: str | None = None) -> UsageProblem:
        """The error of an adapter that is not what it should be."""
        return UsageProblem(f"the adapter in {self.folder} {found}", expected=expected, action=action)


def is_adapter_folder(path: Path) -> bool:
    """Whether `path` is a folder with an adapter's config and without a model."""
    return is_folder(path) and is_file(path / CONFIG_NAME) and not is_file(path / "config.json")


def read_adapter(folder: Path, most_bytes: int = MAX_WEIGHTS_BYTES) -> AdapterFiles:
    """The adapter in `folder`, whose weights take at most `most_bytes`.

    Raises FileMissing, CheckpointError for files that cannot be read, UsageProblem for what is not supported.
    """
    path = adapter_file(folder, CONFIG_NAME)
    config = read_config(read_object(path, MAX_CONFIG_BYTES), path)
    found: dict[Key, Floats] = {}
    for name, values in _tensors(folder, min(most_bytes, MAX_WEIGHTS_BYTES)):
        key = read_key(name)
        if key is None:
            raise UsageProblem(
                f"the adapter in {folder} contains the tensor {name[:80]}", expected="lora_A and lora_B only",
                action=MERGE_WITH_PEFT if name.startswith(PREFIX) else RENAME,
            )  # fmt: skip
        found[key] = values
    named = sorted(adapter_names(found))
    if len(named) > 1:
        raise UsageProblem(f"the folder {folder} holds several adapters: {', '.join(named[:5])}", expected="one")
    tensors = {Key(key.module, key.part, None, key.wrapped): values for key, values in found.items()}
    if len(tensors) < len(found):
        raise UsageProblem(f"the adapter in {folder} contains a tensor with and without a name", expected="one of them")
    return AdapterFiles(folder, config, tensors)


def adapter_file(folder: Path, name: str) -> Path:
    """The path of a file of the folder; raises FileMissing where there is none, CheckpointError for links out of it."""
    if not is_folder(folder):
        within = is_file(folder) and is_file(folder.parent / CONFIG_NAME)
        action = f"give its folder: {folder.parent}" if within else None
        raise FileMissing(f"no adapter folder at {folder}", expected="a PEFT adapter folder", action=action)
    path = safe_path(folder, name)
    if not path.exists():
        raise FileMissing(f"no {name} in {folder}", expected="a PEFT adapter folder", action=_inner_folder(folder))
    return path


def _inner_folder(folder: Path) -> str | None:
    """Where the adapter may be: PEFT saves one with a name of its own, and trainers each checkpoint, in a folder."""
    try:
        inner = sorted(each.name for each in folder.iterdir() if is_file(each / CONFIG_NAME))
    except OSError:
        return None
    return f"give one of its folders: {first_names(inner, 5)}" if inner else None


def _tensors(folder: Path, most_bytes: int) -> Iterator[tuple[str, Floats]]:
    """Name and values of every tensor, from one file or from those of an index."""
    if (folder / WEIGHTS_NAME).exists() or not is_file(folder / INDEX_NAME):
        _require_no_pickle(folder)
        yield from _file_tensors(adapter_file(folder, WEIGHTS_NAME), most_bytes)
        return
    listed = weight_map(safe_path(folder, INDEX_NAME))
    for file_name in dict.fromkeys(listed.values()):
        path = safe_path(folder, file_name)
        for name, values in _file_tensors(path, most_bytes):
            if listed.get(name) != file_name:
                raise CheckpointError(f"{path} holds {name[:80]!r}, which {INDEX_NAME} does not list there")
            most_bytes -= values.nbytes
            listed = {other: listed[other] for other in listed if other != name}
            yield name, values
    if listed:
        raise CheckpointError(f"tensor {min(listed)[:80]!r} is not in the file where {INDEX_NAME} lists it")


def _require_no_pickle(folder: Path) -> None:
    if is_file(folder / PICKLE_NAME) and not (folder / WEIGHTS_NAME).exists():
        raise UnsupportedFormat(
            f"{folder} holds its weights in {PICKLE_NAME}, a Python pickle, which is never opened: it can run code",
            expected=WEIGHTS_NAME,
            action=f"if you trust it, write it anew: `safetensors.torch.save_file(torch.load('{PICKLE_NAME}', "
            f"weights_only=True), '{WEIGHTS_NAME}')`",
        )


def _file_tensors(path: Path, most_bytes: int) -> Iterator[tuple[str, Floats]]:
    """Copies, since the file may change."""
    with closing(ByteSource(path)) as source:
        if source.size_bytes > most_bytes:
            raise CheckpointError(f"{path} takes {source.size_bytes:,} bytes", expected=f"at most {most_bytes:,}")
        shard = read_shard(source)
        for name, entry in shard.tensors.items():
            yield name, _values(source, shard.data_start, entry, path.parent)


def _values(source: ByteSource, data_start: int, entry: TensorEntry, folder: Path) -> Floats:
    raw = source.read(data_start + entry.offset, entry.size_bytes, f"tensor {entry.name}") if entry.size_bytes else b""
    if not entry.dtype.is_float:
        raise UsageProblem(
            f"the adapter in {folder} stores {entry.name[:80]} as {entry.dtype.name}", expected="floats",
            action="save it with PEFT from the trainer's model, which stores floats",
        )  # fmt: skip
    values = decode(raw, entry.dtype, entry.shape)
    if not bool(np.isfinite(values).all()):
        raise UsageProblem(
            f"the adapter in {folder} has values for {_weight(entry.name)} that are not finite numbers",
            expected="finite floats", action="train it again from a state before the loss became NaN",
        )  # fmt: skip
    return values


def _weight(name: str) -> str:
    key = read_key(name)
    return f"{key.module}.weight" if key else name[:80]
