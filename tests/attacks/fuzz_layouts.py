"""A tiny Qwen3 in every layout that has sidecar files: folders, shards, the hub's cache, sidecar files of an `.apr`."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_case import SECRET, SECRET_NUMBER

from aprnb_tests.apr_bytes import entry, front, pad
from aprnb_tests.safetensors_bytes import packed

SOURCE = Path(__file__).parents[1] / "data" / "sources" / "qwen3"
HIDDEN, HEADS, HEAD, INNER, TOKENS = 8, 2, 4, 12, 280
Weights = dict[str, tuple[tuple[int, ...], bytes]]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BF16, SHARDED = 30, 0x0410
SIDECARS = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@dataclass(frozen=True)
class Layout:
    """`opened` is the path to open; `read` are files whose contents are damaged, `links` name → target."""

    name: str
    opened: str
    files: Mapping[str, bytes]
    damaged: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)


def layouts() -> list[Layout]:
    """All of them; commoner ones several times."""
    sidecars, weights = sidecar_files(), tiny_weights()
    around = {f"m/{name}": data for name, data in sidecars.items()}
    named = tuple(around)
    single = {"m/model.safetensors": safetensors_of(weights)}
    apr = apr_of(weights, {"architecture": "qwen3"})
    shards = _shards(weights)
    own = {f"m/model.{name}": data for name, data in sidecars.items()}
    blobs = {f"cache/blobs/{number}": data for number, data in enumerate([*sidecars.values(), *single.values()])}
    names = [*sidecars, "model.safetensors"]
    links = {f"cache/snapshots/a/{name}": f"../../blobs/{number}" for number, name in enumerate(names)}
    return [
        Layout("folder", "m", around | single, named),
        Layout("folder", "m", around | single, named),
        Layout("file", "m/model.safetensors", around | single, named),
        Layout("index", "m", around | shards, (*named, "m/model.safetensors.index.json")),
        Layout("index", "m", around | shards, ("m/model.safetensors.index.json",)),
        Layout("index", "m/model.safetensors.index.json", around | shards, ("m/model.safetensors.index.json",)),
        Layout("hub", "cache/snapshots/a", blobs, tuple(blobs)[: len(sidecars)], links),
        Layout("apr", "m/model.apr", around | {"m/model.apr": apr}, named),
        Layout("apr", "m/model.apr", own | {"m/model.apr": apr}, tuple(own)),
        Layout("manifest", "m/model.json", around | manifest_of(weights), ("m/model.json",)),
        Layout("manifest", "m/model.json", around | manifest_of(weights), (*named, "m/model.json")),
    ]


def small_tokenizer() -> dict[str, Any]:
    """The tokenizer.json of the shipped Qwen3 with its first merges only: 280 tokens."""
    document: dict[str, Any] = json.loads((SOURCE / "tokenizer.json").read_text())
    model = document["model"]
    model["vocab"] = {text: number for text, number in model["vocab"].items() if number < TOKENS - 3}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
    for number, token in enumerate(document["added_tokens"], TOKENS - 3):
        token["id"] = number
    return document


def sidecar_files() -> dict[str, bytes]:
    config = json.loads((SOURCE / "config.json").read_text())
    config |= {"vocab_size": TOKENS, "bos_token_id": None, "eos_token_id": TOKENS - 1}
    config |= {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": 1,
               "head_dim": HEAD, "intermediate_size": INNER, "max_window_layers": 1}  # fmt: skip
    texts = {"tokenizer_config.json": (SOURCE / "tokenizer_config.json").read_bytes()}
    texts["tokenizer.json"] = json.dumps(small_tokenizer(), ensure_ascii=False).encode()
    settings = {"bos_token_id": 277, "eos_token_id": 279, "max_new_tokens": 20, "temperature": 0.5}
    written = {"config.json": json.dumps(config).encode(), "chat_template.jinja": TEMPLATE.encode()}
    files = written | texts | {"generation_config.json": json.dumps(settings).encode()}
    return {name: files[name] for name in SIDECARS}


def planted_files() -> dict[str, bytes]:
    """The same files with a secret where it would come out, and whole checkpoints that name it."""
    files = sidecar_files()
    config, tokenizer, settings = (json.loads(files[name]) for name in SIDECARS[:3])
    config |= {"architectures": [SECRET], "rope_theta": SECRET_NUMBER, "x_planted": SECRET}
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": TOKENS, "content": SECRET})
    settings["chat_template"] = settings["eos_token"] = SECRET
    changed = {"config.json": config, "tokenizer.json": tokenizer, "tokenizer_config.json": settings}
    files |= {name: json.dumps(value).encode() for name, value in changed.items()}
    files["chat_template.jinja"] = f"{TEMPLATE}{SECRET}".encode()
    weights = tiny_weights()
    about: dict[str, Any] = {"__metadata__": {"secret": SECRET}}
    files["model.safetensors"] = safetensors_of(weights, about)
    for name, data in {**_shards(weights), **manifest_of(weights)}.items():
        files[Path(name).name] = data
    own = {f"model.{name}": files[name] for name in SIDECARS}
    return files | own | {"model.apr": apr_of(weights, {"architecture": "qwen3", "name": SECRET})}


def tiny_weights() -> Weights:
    layer = {
        "input_layernorm": (HIDDEN,), "mlp.down_proj": (HIDDEN, INNER), "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN), "post_attention_layernorm": (HIDDEN,), "self_attn.k_norm": (HEAD,),
        "self_attn.k_proj": (HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD), "self_attn.q_norm": (HEAD,),
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.v_proj": (HEAD, HIDDEN),
    }  # fmt: skip
    shapes = {"model.embed_tokens": (TOKENS, HIDDEN), "model.norm": (HIDDEN,)}
    shapes |= {f"model.layers.0.{name}": shape for name, shape in layer.items()}
    numbers = np.random.default_rng(0)
    found = {}
    for name, shape in sorted(shapes.items()):
        values = numbers.normal(size=shape).astype(np.float32).view(np.uint32) >> 16
        found[f"{name}.weight"] = (shape, values.astype(np.uint16).tobytes())
    return found


def safetensors_of(weights: Weights, about: Mapping[str, Any] | None = None) -> bytes:
    data = packed({name: ("BF16", shape, payload) for name, (shape, payload) in weights.items()})
    if not about:
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps({**json.loads(data[8:end]), **about}).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def _shards(weights: Weights) -> dict[str, bytes]:
    """Two safetensors files and their index."""
    names = list(weights)
    parts = {f"m/model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    listed = {name: Path(file).name for file, part in parts.items() for name in part}
    index = {"metadata": {"total_size": sum(len(data) for _, data in weights.values())}, "weight_map": listed}
    files = {file: safetensors_of({name: weights[name] for name in part}) for file, part in parts.items()}
    return files | {"m/model.safetensors.index.json": json.dumps(index).encode()}


def manifest_of(weights: Weights) -> dict[str, bytes]:
    """Two `.apr` shards and their manifest."""
    names, listed, files = list(weights), [], {}
    for part in range(2):
        chosen = {name: weights[name] for name in sorted(names[part::2])}
        metadata = {"architecture": "qwen3", "sharding": {"shard_count": 2, "shard_index": part}}
        name = f"model-0000{part + 1}-of-00002.apr"
        files[f"m/{name}"] = apr_of(chosen, metadata, flags=SHARDED)
        size = sum(len(data) for _, data in chosen.values())
        listed.append({"filename": name, "index": part, "size": size, "tensors": list(chosen)})
    whole = {"version": "2.0", "shard_count": 2, "total_size": sum(one["size"] for one in listed),
             "tensor_count": len(names), "shards": listed}  # fmt: skip
    weight_map = {name: one["index"] for one in listed for name in one["tensors"]}
    return files | {"m/model.json": json.dumps(whole | {"weight_map": weight_map}).encode()}


def apr_of(weights: Weights, metadata: Mapping[str, Any], flags: int = 0x0400) -> bytes:
    entries, data = [], b""
    for name, (shape, payload) in weights.items():
        entries.append(entry(name, BF16, shape, len(data), len(payload)))
        data += pad(payload)
    body = front(metadata, entries, flags=flags) + data
    return body + struct.pack("<I", zlib.crc32(body))
