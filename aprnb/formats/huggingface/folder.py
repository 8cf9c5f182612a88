"""Hugging Face checkpoints: a folder, one `.safetensors` file of it, or the index of several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, UnsupportedFormat
from aprnb.formats.contents import Contents, DataFile, Format, TensorEntry
from aprnb.formats.huggingface.metadata import folder_metadata
from aprnb.formats.huggingface.safetensors import Shard, read_shard
from aprnb.formats.json_files import read_object
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import ByteSource, is_file
from aprnb.printable import first_names

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
INDEX_ENDING = ".safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
MAX_SHARDS = 4096
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTER = frozenset(("adapter_config.json", "adapter_model.safetensors"))


def read_folder(folder: Path) -> Contents:
    """The checkpoint in `folder`; raises CheckpointError or FileMissing where it contains none."""
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() and index.exists():
        raise CheckpointError(
            f"{folder} holds {SINGLE} and {INDEX}", expected="one of them", action="open the one that you need"
        )
    if index.exists():
        return read_index(safe_path(folder, INDEX), "huggingface")
    if not single.exists():
        raise _no_weights(folder)
    source = ByteSource(safe_path(folder, SINGLE))
    try:
        return read_single(source, "huggingface")
    except BaseException:
        source.close()
        raise


def read_single(source: ByteSource, named: Format = "safetensors") -> Contents:
    """One `.safetensors` file with its sidecar files."""
    shard = read_shard(source)
    return _contents(named, source.path, {source.path.name: shard}, shard.tensors, shard.about)


def read_index(path: Path, named: Format = "safetensors") -> Contents:
    """All files of an index; each tensor is in the file that the index names, and there are no others."""
    wanted = weight_map(path)
    shards: dict[str, Shard] = {}
    sources: list[ByteSource] = []
    try:
        for number, name in enumerate(dict.fromkeys(wanted.values())):
            sources.append(ByteSource(safe_path(path.parent, name)))
            shards[name] = read_shard(sources[-1], number)
        return _contents(named, path, shards, _joined(path, wanted, shards))
    except BaseException:
        for source in sources:
            source.close()
        raise


def weight_map(path: Path) -> dict[str, str]:
    """Tensor → file name, as the index says."""
    index = read_object(path, MAX_INDEX_BYTES)
    found: Any = index.get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{path} holds no weight_map", expected="an object: tensor name → file name")
    names = set(found.values())
    if len(names) > MAX_SHARDS:
        raise CheckpointError(f"{path} names {len(names):,} files", expected=f"at most {MAX_SHARDS:,}")
    unexpected = next((name for name in sorted(names) if not name.endswith(".safetensors")), None)
    if unexpected is not None:
        raise CheckpointError(f"{path} names the file {unexpected[:80]!r}", expected="names that end in .safetensors")
    missing = sorted(name for name in names if not is_file(safe_path(path.parent, name)))
    if missing:
        raise FileMissing(
            f"{first_names(missing, 3)} of {path.name} missing",
            action=f"put all {len(names)} files into {path.parent}",
        )
    return found


def _joined(path: Path, wanted: Mapping[str, str], shards: Mapping[str, Shard]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for file_name, shard in shards.items():
        for name, entry in shard.tensors.items():
            if wanted.get(name) != file_name:
                listed = f"lists it in {wanted[name]}" if name in wanted else "does not list it"
                raise CheckpointError(f"tensor {name!r} is in {file_name}; {path.name} {listed}")
            tensors[name] = entry
    for name, file_name in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"tensor {name!r} is not in {file_name}, where {path.name} lists it")
    return tensors


def _contents(
    named: Format,
    path: Path,
    shards: Mapping[str, Shard],
    tensors: Mapping[str, TensorEntry],
    about: Mapping[str, str] | None = None,
) -> Contents:
    metadata, warnings = folder_metadata(path.absolute().parent, tensors, about or {})
    return Contents(
        format=named,
        version="",
        metadata=metadata,
        tensors=dict(sorted(tensors.items())),
        files=tuple(DataFile(shard.source, shard.data_start) for shard in shards.values()),
        warnings=tuple(warnings),
    )


def _no_weights(folder: Path) -> CheckpointError | FileMissing:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return FileMissing(f"{folder} cannot be read: {error.strerror}")
    pickles = [name for name in _PICKLES if name in names]
    if pickles:
        return UnsupportedFormat(
            f"{folder} holds its weights in {pickles[0]}, a Python pickle, which is never opened: it can run code",
            expected=SINGLE,
            action="ask its owner to save it with `save_pretrained(..., safe_serialization=True)`",
        )
    if not _ADAPTER.isdisjoint(names):
        return UnsupportedFormat(
            f"{folder} is a PEFT adapter, not a model", expected=SINGLE, action="merge it into its base: `aprnb merge`"
        )
    files = [name for name in names if name.endswith((".apr", ".gguf", ".safetensors"))]
    return CheckpointError(
        f"{folder} is a directory without {SINGLE}", expected="a checkpoint file, or a Hugging Face folder",
        action=f"open one of {first_names(files, 5)}" if files else f"check the path: {folder} holds no .apr file",
    )  # fmt: skip
