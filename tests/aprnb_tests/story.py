"""The story's checkpoint: Qwen3-8B as a sparse `.apr` with a 152k vocabulary in its metadata, and ways to change it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from aprnb_tests.apr_bytes import Tensor, sparse_file

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCABULARY = 36, 4096, 32, 8, 128, 12288, 151936
BF16 = 30
"""Figures of the published Qwen/Qwen3-8B config.json."""


def metadata(**changes: Any) -> dict[str, Any]:
    """What `apr import` writes for this model, with a vocabulary of full length."""
    alphabet = _byte_alphabet()
    pairs = [a + b for a in alphabet for b in alphabet]
    triples = (a + b for a in pairs for b in alphabet)
    learned = 151643 - len(alphabet)
    merges = [f"{p[0]} {p[1]}" for p in pairs] + [
        f"{t[:2]} {t[2]}" for _, t in zip(range(learned - len(pairs)), triples, strict=False)
    ]
    vocabulary = alphabet + [merge.replace(" ", "") for merge in merges]
    vocabulary += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary += ["<unk>"] * (VOCABULARY - len(vocabulary))
    return {
        "model_type": "Auto",
        "name": "qwen_qwen3-8b",
        "license": None,
        "total_size": 0,
        "param_count": 8190735360,
        "architecture": "qwen3",
        "hf_architecture": "Qwen3ForCausalLM",
        "hf_model_type": "qwen3",
        "hidden_size": HIDDEN,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "num_kv_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "rope_type": 2,
        "rms_norm_eps": 1e-6,
        "head_dim": HEAD_DIM,
        "tokenizer.vocabulary": vocabulary,
        "tokenizer.merges": merges,
        "tokenizer.vocab_size": VOCABULARY,
        "tokenizer.model_type": "BPE",
        "tokenizer.bos_token_id": 151643,
        "tokenizer.eos_token_id": 151645,
    } | changes


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE (GPT-2's mapping)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(256 - len(kept))]


def shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """399 tensors: three outside the layers and eleven in each of 36."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(layers):
        start = f"model.layers.{layer}."
        found |= {
            f"{start}input_layernorm.weight": (HIDDEN,),
            f"{start}post_attention_layernorm.weight": (HIDDEN,),
            f"{start}self_attn.q_norm.weight": (HEAD_DIM,),
            f"{start}self_attn.k_norm.weight": (HEAD_DIM,),
            f"{start}self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{start}self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{start}self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{start}self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{start}mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{start}mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{start}mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return found


def write(path: Path, tensors: dict[str, tuple[int, ...]] | None = None, **changes: Any) -> Path:
    """The file at `path`; `tensors` and `changes` of the metadata make it invalid."""
    entries: list[Tensor] = [(name, BF16, shape, 2 * prod(shape)) for name, shape in (tensors or shapes()).items()]
    return sparse_file(path, metadata(**changes), entries)
