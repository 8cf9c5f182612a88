"""Paths that are not files, and malicious sidecar files of a valid one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from registry import attack

from aprnb.errors import AprnbError, CheckpointError
from aprnb_tests import apr_bytes as b
from aprnb_tests import safetensors_bytes as s


@attack("a named pipe as the path", CheckpointError, "not a regular file", has_byte=False)
def _(folder: Path) -> Path:
    os.mkfifo(folder / "x.apr")
    return folder / "x.apr"


@attack("an endless device as the path", CheckpointError, "not a regular file", has_byte=False)
def _(folder: Path) -> Path:
    return Path("/dev/zero")


@attack("a link to itself as the path", AprnbError, "cannot be reached|no file", has_byte=False)
def _(folder: Path) -> Path:
    (folder / "x.apr").symlink_to("x.apr")
    return folder / "x.apr"


@attack("a hostile config next to the file", None)
def _(folder: Path) -> bytes:
    (folder / "config.json").write_text('{"hidden_size":' * 50_000)
    return b.small_file(metadata={"architecture": "qwen3"})


@attack("an index that leads out of its folder", CheckpointError, "plain file name", has_byte=False)
def _(folder: Path) -> Path:
    name = "../../etc/passwd.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    return folder


@attack("a shard that is a link out of its folder", CheckpointError, "is a link", has_byte=False)
def _(folder: Path) -> Path:
    inner = folder / "model"
    inner.mkdir()
    (folder / "other.safetensors").write_bytes(s.small_file())
    (inner / "m.safetensors").symlink_to(folder / "other.safetensors")
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    return inner


@attack("an index that names itself", CheckpointError, "end in .safetensors", has_byte=False)
def _(folder: Path) -> Path:
    name = "model.safetensors.index.json"
    (folder / name).write_text(json.dumps({"weight_map": {"a": name}}))
    return folder


BOMB = b'{"a":[' + b"[]," * 3_000_000 + b"1]}"


def huggingface(folder: Path, **sidecars: bytes) -> Path:
    """A valid `model.safetensors` with sidecar files, `tokenizer_json=` for tokenizer.json."""
    (folder / "model.safetensors").write_bytes(s.small_file())
    for name, data in sidecars.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_bytes(data)
    return folder


@attack("a directory without weights as the path", AprnbError, "model.safetensors|no weights", has_byte=False)
def _(folder: Path) -> Path:
    return folder


@attack("a pipe as the config next to the file", None)
def _(folder: Path) -> bytes:
    os.mkfifo(folder / "config.json")  # reading it would wait for ever
    return b.small_file(metadata={"architecture": "qwen3"})


@attack("an endless device as the config in the folder", None, "no config.json")
def _(folder: Path) -> Path:
    (folder / "config.json").symlink_to("/dev/zero")
    return huggingface(folder)


@attack("a config of millions of small values", CheckpointError, "values")
def _(folder: Path) -> Path:
    return huggingface(folder, config_json=BOMB)


@attack("a tokenizer.json of millions of small values", None, "is not read")
def _(folder: Path) -> Path:
    return huggingface(folder, config_json=b"{}", tokenizer_json=BOMB)


@attack("a tokenizer.json of other types than its own", None, "is not read")
def _(folder: Path) -> Path:
    text = json.dumps({"added_tokens": 5, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [1]}})
    return huggingface(folder, config_json=b"{}", tokenizer_json=text.encode())


@attack("a token with an id of millions", None, "is not read")
def _(folder: Path) -> Path:
    text = json.dumps({"model": {"type": "BPE", "vocab": {"a": 4_000_000}, "merges": []}})
    return huggingface(folder, config_json=b"{}", tokenizer_json=text.encode())


@attack("a manifest whose shard is itself", CheckpointError, "")
def _(folder: Path) -> Path:
    shard = {"filename": "x.json", "index": 0, "size": 16, "tensors": ["a"]}
    manifest = {"version": "2.0", "shard_count": 1, "total_size": 16, "tensor_count": 1, "shards": [shard]}
    (folder / "x.json").write_text(json.dumps(manifest | {"weight_map": {"a": 0}}))
    return folder / "x.json"
