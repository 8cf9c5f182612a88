"""Malformed JSON in an `.apr` file: its form, its size, the architecture and the tokenizer that it claims."""

from __future__ import annotations

from pathlib import Path

from registry import ENTRY, attack, file_of

from aprnb.errors import CheckpointError
from aprnb_tests import apr_bytes as b


@attack("deeply nested JSON", CheckpointError, "nested too deeply|not JSON")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


@attack("JSON of millions of small values", CheckpointError, "values")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"a":[' + b"[]," * 3_000_000 + b"1]}")


@attack("an emoji in 40 MiB of ASCII", None)
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"a":"' + b"x" * (40 << 20) + '","b":"\U0001f600"}'.encode())


@attack("700,000 texts and an emoji", None)
def _(folder: Path) -> bytes:
    texts = b",".join(b'"%020d"' % number for number in range(700_000))
    return file_of(ENTRY, metadata='{"a":["\U0001f600",'.encode() + texts + b"]}")


@attack("whole numbers of thousands of digits", CheckpointError, "metadata")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"hidden_size":' + b"9" * 100_000 + b"}")


@attack("half of a surrogate pair", CheckpointError, "surrogate")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"name":"\\ud800"}')


@attack("a tokenizer with a million empty merges", CheckpointError, "values")
def _(folder: Path) -> bytes:
    merges = b'"",' * 999_999 + b'""'
    text = b'{"tokenizer.vocabulary":["a","b"],"tokenizer.merges":[' + merges + b"]}"
    return file_of(ENTRY, metadata=text)


@attack("names and metadata with HTML", None)
def _(folder: Path) -> bytes:
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    return file_of(b.entry(script, 0, (4,), 0, 16), metadata={"model_type": script, "architecture": script})


@attack("right-to-left marks", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("model.\u202ethgiew", 0, (4,), 0, 16), metadata={"architecture": "\u202eamall"})


QWEN3 = {
    "architecture": "qwen3", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "vocab_size": 100, "rope_theta": 1e4, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
}  # fmt: skip


@attack("JSON of a million keys", CheckpointError, "values")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(1_000_000)) + b"}")


@attack("numbers beyond every floating-point number", CheckpointError, "1e999 is too large")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=b'{"rope_theta":1e999}')  # Python's reader makes an infinity of it


@attack("a name of twenty million characters", None, "is not supported")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata={"architecture": "x" * 20_000_000})


@attack("a million layers in the metadata", None, "num_layers is 1,000,000")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata=QWEN3 | {"num_layers": 1_000_000})  # the list of what is missing fills the memory


@attack("a million layers in a tensor's name", None, "layers in the tensor index is 1,000,000")
def _(folder: Path) -> bytes:
    return file_of(b.entry("model.layers.999999.input_layernorm.weight", 0, (4,), 0, 16), metadata=QWEN3)


@attack("a million layers in the config inside", None, "num_hidden_layers is 1,000,000")
def _(folder: Path) -> bytes:
    config = {"model_type": "gemma3_text", "num_hidden_layers": 1_000_000}  # its class derives a list of kinds
    return file_of(ENTRY, metadata={"architecture": "gemma3_text", "hf_config": config})


@attack("a million experts", None, "num_experts is 2,000,000")
def _(folder: Path) -> bytes:
    experts = {"num_experts": 1_000_000, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    config = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "model_type": "qwen3_moe"}
    described = {**QWEN3, **experts, "architecture": "qwen3_moe", "hf_config": config}
    return file_of(ENTRY, metadata=described)


@attack("a number in place of a list of layers", None, "no_rope_layers")
def _(folder: Path) -> bytes:
    config = {"model_type": "smollm3", "num_hidden_layers": 2, "no_rope_layers": 5, "sliding_window": 8}
    return file_of(ENTRY, metadata={"architecture": "smollm3", "hf_config": config | {"use_sliding_window": True}})


@attack("a tokenizer with a million tokens", CheckpointError, "values")
def _(folder: Path) -> bytes:
    return file_of(ENTRY, metadata={"tokenizer.vocabulary": [f"t{n}" for n in range(1_000_000)]})


@attack("a tokenizer whose pieces split in every way", None, "characters")
def _(folder: Path) -> bytes:
    pieces = ["▁", "<0x0A>", *("a" * n for n in range(1, 4_000))]  # eight million merges would follow from the scores
    scores = [-n for n in range(len(pieces))]
    stated = {"tokenizer.model_type": "llama", "tokenizer.vocabulary": pieces, "tokenizer.scores": scores}
    return file_of(ENTRY, metadata=stated)
