"""Sidecar files that lead elsewhere, and facts that are stated twice."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from registry import attack
from ways_metadata import QWEN3
from ways_paths import huggingface

from aprnb.errors import CheckpointError, FileMissing
from aprnb_tests import apr_bytes as b
from aprnb_tests import gguf_bytes as g
from aprnb_tests import safetensors_bytes as s

POCKET = Path(__file__).parents[2] / "notebooks" / "pocket-qwen3.apr"
SECRET = "s3cr3t text of a private file"


def secret(folder: Path) -> Path:
    path = folder / "id_rsa"
    path.write_text(SECRET)
    return path


@attack("a chat template that is a link out of the folder", None, "chat_template.jinja is a link")
def _(folder: Path) -> Path:
    inner = folder / "model"
    inner.mkdir()
    (inner / "chat_template.jinja").symlink_to(secret(folder))
    return huggingface(inner, config_json=b"{}")


@attack("a config that is a link out of the folder", CheckpointError, "is a link", has_byte=False)
def _(folder: Path) -> Path:
    inner = folder / "model"
    inner.mkdir()
    (folder / "private.json").write_text(json.dumps({"token": SECRET}))
    (inner / "config.json").symlink_to(folder / "private.json")
    return huggingface(inner)


@attack("an index that is a link out of its folder", CheckpointError, "is a link", has_byte=False)
def _(folder: Path) -> Path:
    inner = folder / "model"
    inner.mkdir()
    (folder / "index.json").write_text(json.dumps({"weight_map": {SECRET: "a.safetensors"}}))
    (inner / "model.safetensors.index.json").symlink_to(folder / "index.json")
    return inner


@attack("a GGUF part that is a link out of its folder", CheckpointError, "is a link", has_byte=False)
def _(folder: Path) -> Path:
    def part(number: int, name: str) -> bytes:
        split = [g.pair("split.no", g.U16, number), g.pair("split.count", g.U16, 2)]
        return g.whole([g.pair("general.architecture", 8, "llama"), *split], [g.info(name, (4,), 0, 0)], bytes(32))

    inner = folder / "model"
    inner.mkdir()
    (folder / "private.gguf").write_bytes(part(1, "b"))
    (inner / "m-00001-of-00002.gguf").write_bytes(part(0, "a"))
    (inner / "m-00002-of-00002.gguf").symlink_to(folder / "private.gguf")
    return inner / "m-00001-of-00002.gguf"


@attack("a shard of a manifest that is a link out of its folder", CheckpointError, "is a link", has_byte=False)
def _(folder: Path) -> Path:
    inner = folder / "model"
    inner.mkdir()
    (folder / "private.apr").write_bytes(b.small_file())
    (inner / "a.apr").symlink_to(folder / "private.apr")
    shard = {"filename": "a.apr", "index": 0, "size": 16, "tensors": ["a", "b"]}
    manifest = {"version": "2.0", "shard_count": 1, "total_size": 16, "tensor_count": 2, "shards": [shard]}
    (inner / "m.json").write_text(json.dumps(manifest | {"weight_map": {"a": 0, "b": 0}}))
    return inner / "m.json"


@attack("a shard's name of 300 characters", FileMissing, "missing", has_byte=False)
def _(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}}))
    return folder


@attack("escape sequences in the names of files", CheckpointError, "⟨U\\+001B⟩", has_byte=False)
def _(folder: Path) -> Path:
    (folder / "\x1b]52;c;cHduZWQ=\x07\x1b[2J.apr").write_bytes(b"x")
    return folder


def llama_with(layer: str) -> bytes:
    """A sound llama of two layers under GGUF's names, layer 0 written as `layer`."""
    size, feed, vocab = 64, 128, 100
    shapes = {
        "attn_norm": (size,), "attn_q": (size, size), "attn_k": (32, size), "attn_v": (32, size),
        "attn_output": (size, size), "ffn_norm": (size,), "ffn_gate": (feed, size), "ffn_up": (feed, size),
        "ffn_down": (size, feed),
    }  # fmt: skip
    named = {f"blk.{n}.{part}.weight": shape for n in (layer, "1") for part, shape in shapes.items()}
    named |= {"token_embd.weight": (vocab, size), "output.weight": (vocab, size), "output_norm.weight": (size,)}
    entries, data = [], b""
    for number, (name, shape) in enumerate(sorted(named.items())):
        payload = struct.pack("<f", number + 1) * (shape[0] * (shape[1] if len(shape) > 1 else 1))
        entries.append(b.entry(name, 0, shape, len(data), len(payload)))
        data += b.pad(payload)
    return b.front(QWEN3 | {"architecture": "llama"}, entries) + data


@attack("a layer's number with a leading zero", None, "Contract broken.*|blk\\.00\\.", name="x.apr")
def _(folder: Path) -> bytes:
    return llama_with("00")


@attack("a layer's number in digits of another script", None, "Contract broken.*|blk\\.٠\\.", name="x.apr")
def _(folder: Path) -> bytes:
    return llama_with("\u0660")


@attack("a hundred names of 400,000 characters", None, "more characters")
def _(folder: Path) -> Path:
    names = {f"{number:03}" + "<" * 400_000: ("F32", (1,), bytes(4)) for number in range(100)}
    (folder / "model.safetensors").write_bytes(s.packed(names))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "hidden_size": 8}))
    return folder


def pocket_with(**changes: object) -> bytes:
    import aprnb

    with aprnb.open(POCKET) as checkpoint:
        return b.with_metadata(POCKET.read_bytes(), {**checkpoint.metadata, **changes})


@attack("two vocabularies that differ", None, "two different tokenizers")
def _(folder: Path) -> bytes:
    import aprnb

    with aprnb.open(POCKET) as checkpoint:
        listed = checkpoint.metadata["tokenizer.vocabulary"]
    swapped = {text: number for number, text in enumerate(listed)}
    swapped[listed[300]], swapped[listed[301]] = 301, 300
    model = {"type": "BPE", "vocab": swapped, "merges": []}
    return pocket_with(hf_tokenizer={"model": model, "added_tokens": []})


@attack("two chat templates that differ", None, "two different chat templates")
def _(folder: Path) -> bytes:
    return pocket_with(chat_template="{{ 1 }}", **{"tokenizer.chat_template": "{{ 2 }}"})


@attack("a chat template next to the file that the card would not show", None, "tokenizer_config.json next to the file")
def _(folder: Path) -> Path:
    shutil.copyfile(POCKET, folder / "x.apr")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 'SIDECAR' }}"}))
    return folder / "x.apr"


@attack("100,000 unknown keys in the config", None, "99,990 more unknown keys")
def _(folder: Path) -> bytes:
    return pocket_with(hf_config={"model_type": "qwen3", **{f"k{number}": 1 for number in range(100_000)}})
