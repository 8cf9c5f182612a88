"""The files that the checks use: a small Qwen3 that is trained, and one of the size of Qwen3-8B that is timed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import aprnb
from aprnb.architecture import expected_tensors
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BY_NAME
from record import POCKET
from smoke.report import Smoke

SCALES = {"Q4_K": (0, 2), "Q6_K": (208,), "Q8_0": (0,), "AprQ4": (0,)}
"""Where a block holds its f16 numbers; the other bytes may be any."""
WORDS = "what is the opposite of hot cold one two three plus name colour grass sky".split()


def random_blocks(name: str, count: int, seed: int = 0) -> bytearray:
    generator = np.random.default_rng(seed)
    raw = generator.integers(0, 256, (count, BY_NAME[name].block_bytes), np.uint8)
    for start in SCALES[name]:
        raw[:, start : start + 2] = as_bytes(generator.uniform(-0.1, 0.1, count))
    return bytearray(raw.tobytes())


def as_bytes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Little-endian f16, two columns of bytes."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def small_file(smoke: Smoke, dtype: str = "F32") -> Path:
    """A Qwen3 with the pocket checkpoint's tokenizer and random weights."""
    plain, path = smoke.work / "small-F32.apr", smoke.work / f"small-{dtype}.apr"
    if not plain.exists():
        _write_small(plain, hidden=128 if smoke.is_tiny else 512, layers=2 if smoke.is_tiny else 4)
    if not path.exists():
        aprnb.convert(plain, path, dtype=dtype)
    return path


def _write_small(path: Path, hidden: int, layers: int) -> None:
    with aprnb.open(POCKET) as pocket:
        metadata, known = dict(pocket.metadata), pocket.architecture
    stated = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "head_dim": 64, "max_position_embeddings": 4096}
    heads, kv_heads = hidden // 64, hidden // 128
    fields = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    counts = {"num_layers": layers, "num_heads": heads, "num_kv_heads": kv_heads}
    generator = np.random.default_rng(0)

    def weights(name: str, shape: tuple[int, ...]) -> bytes:
        norm = name.endswith("norm.weight")
        values = np.ones(shape) if norm else generator.standard_normal(shape) * 0.02
        return values.astype("<f4").tobytes()

    tensors = expected_tensors(replace(known, **stated, **fields))
    sources = [
        TensorSource(name, BY_NAME["F32"], tensor.shape, lambda name=name, shape=tensor.shape: weights(name, shape))
        for name, tensor in tensors.items()
    ]
    write_apr(path, {**metadata, **stated, **counts}, sources)


def small_rows(count: int) -> list[dict[str, str]]:
    choose = random.Random(0)

    def sentence(shortest: int, longest: int) -> str:
        return " ".join(choose.choices(WORDS, k=choose.randint(shortest, longest)))

    return [{"instruction": sentence(5, 30), "response": sentence(10, 60)} for _ in range(count)]


def large_shape(smoke: Smoke) -> dict[str, int]:
    """The published numbers of Qwen3-8B, or those of a toy."""
    if smoke.is_tiny:
        return {"num_layers": 2, "hidden_size": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64,
                "intermediate_size": 512, "vocab_size": 1024}  # fmt: skip
    return {"num_layers": 36, "hidden_size": 4096, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128,
            "intermediate_size": 12288, "vocab_size": 151936}  # fmt: skip


def large_file(smoke: Smoke) -> Path:
    """Random Q4_K blocks, embedding and head Q6_K, norms F32; without a tokenizer."""
    path, shape = smoke.work / "large.apr", large_shape(smoke)
    if not path.exists():
        stated = {
            "architecture": "qwen3", "hf_model_type": "qwen3", "model_type": "qwen3", "rope_theta": 1e6,
            "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, **shape,
        }  # fmt: skip
        write_apr(path, stated, [_large_source(name, dims) for name, dims in _large_shapes(shape)])
    return path


def _large_shapes(shape: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    queries, keys = shape["num_heads"] * head, shape["num_kv_heads"] * head
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)
    yield "lm_head.weight", (shape["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,), "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries), "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    for number in range(shape["num_layers"]):
        yield from ((f"model.layers.{number}.{name}.weight", dims) for name, dims in layer.items())


def _large_source(name: str, shape: tuple[int, ...]) -> TensorSource:
    if len(shape) == 1:
        return TensorSource(name, BY_NAME["F32"], shape, lambda: np.ones(shape, "<f4").tobytes())
    kind = "Q6_K" if name.startswith(("lm_head", "model.embed")) else "Q4_K"
    return TensorSource(name, BY_NAME[kind], shape, lambda: _blocks_of_weights(name, kind, prod(shape) // 256))


def _blocks_of_weights(name: str, kind: str, count: int) -> bytes:
    """Blocks whose values have about the mean 0 and a standard deviation like that of trained weights."""
    unit = np.random.default_rng(len(name)).integers(0, 256, (min(count, 8192), BY_NAME[kind].block_bytes), np.uint8)
    scales = {"lm_head.weight": {208: 5e-6}, "model.embed_tokens.weight": {208: 1.5e-5}}
    # Q4_K: d × scale × code − dmin × minimum, with scales and minima of 6 bits and codes of 4
    for start, scale in scales.get(name, {0: 1.3e-4, 2: 9.7e-4}).items():
        unit[:, start : start + 2] = as_bytes(np.full(len(unit), scale))
    return np.tile(unit, (-(-count // len(unit)), 1))[:count].tobytes()
