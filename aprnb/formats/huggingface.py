"""Hugging Face folders: config.json, safetensors in one file or in shards with an index, tokenizer files."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing
from aprnb.formats.contents import Contents, DataFile, TensorEntry
from aprnb.formats.huggingface_metadata import folder_metadata
from aprnb.formats.json_files import read_object
from aprnb.formats.safetensors import read_front
from aprnb.formats.source import ByteSource

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt")


def read_folder(folder: Path) -> Contents:
    """The model in a folder; raises CheckpointError for one that holds none, or only pickled weights."""
    if (folder / INDEX).is_file():
        return read_sharded(folder / INDEX)
    if (folder / WEIGHTS).is_file():
        return read_files(folder, [WEIGHTS], "huggingface")
    pickled = next((name for name in _PICKLES if (folder / name).exists()), None)
    if pickled:
        raise CheckpointError(
            f"{folder} holds its weights as a Python pickle ({pickled}), which is never opened: it can run code",
            action="save the model again with transformers: model.save_pretrained(FOLDER)",
        )
    names = sorted(entry.name for entry in folder.iterdir())
    models = [name for name in names if name.endswith((".apr", ".gguf", ".safetensors"))]
    holds = f"it holds {', '.join(models[:5])}" if models else f"it holds {len(names):,} files, none of them a model"
    raise CheckpointError(f"{folder} is a directory without {WEIGHTS}", expected="a model", action=holds)


def read_sharded(index: Path) -> Contents:
    """The shards that an index file lists, as one checkpoint.

    Raises CheckpointError for names that lead out of the folder and tensors that are not where the index says.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map", expected="an object: tensor name → file name")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(
                f"{index} places tensor {name[:200]!r} into {str(file)[:200]!r}",
                expected="the name of a file in the same folder",
            )
    contents = read_files(index.parent, sorted(set(weight_map.values())), "huggingface")
    names = [file.source.path.name for file in contents.files]
    strays = [name for name, file in weight_map.items() if name not in contents.tensors]
    strays += [n for n, e in contents.tensors.items() if weight_map.get(n, names[e.file]) != names[e.file]]
    if strays:
        for file in contents.files:
            file.source.close()
        raise CheckpointError(
            f"{len(strays):,} tensors are not in the file that {index.name} names, first {strays[0]} "
            f"(said to be in {weight_map.get(strays[0])})",
            action="download the folder again",
        )
    unlisted = [name for name in contents.tensors if name not in weight_map]
    if not unlisted:
        return contents
    note = f"{index.name} does not list {len(unlisted):,} tensors of its shards, first {unlisted[0]}; they are read"
    return Contents(**{**contents.__dict__, "warnings": (*contents.warnings, note)})


def read_single(source: ByteSource) -> Contents:
    """One safetensors file; what stands beside it (config, tokenizer) belongs to it."""
    return _contents(source.path.parent, [source], "safetensors")


def read_files(folder: Path, names: list[str], kind: Any) -> Contents:
    sources: list[ByteSource] = []
    try:
        for name in names:
            _require_regular(folder / name)
            sources.append(ByteSource(folder / name))
        return _contents(folder, sources, kind)
    except BaseException:
        for source in sources:
            source.close()
        raise


def _contents(folder: Path, sources: list[ByteSource], kind: Any) -> Contents:
    tensors: dict[str, TensorEntry] = {}
    files: list[DataFile] = []
    texts: dict[str, str] = {}
    for number, source in enumerate(sources):
        entries, data_start, more = read_front(source, number)
        twice = next((name for name in entries if name in tensors), None)
        if twice is not None:
            raise CheckpointError(f"tensor {twice} is in {source.path.name} and in another shard")
        tensors |= entries
        texts |= more
        files.append(DataFile(source, data_start))
    metadata, warnings = folder_metadata(folder, tensors, texts)
    return Contents(kind, "", metadata, tensors, tuple(files), tuple(warnings))


def _require_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise FileMissing(f"shard {path.name} is missing in {path.parent}", action="download it again") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is not a regular file", expected="a safetensors file")
