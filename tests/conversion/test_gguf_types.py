"""The types of `q4_k_m` and its like, against files that `llama-quantize` wrote and the rules of llama-quant.cpp."""

from __future__ import annotations

import dataclasses

import gguf
import pytest
import torch

import aprnb
from aprnb.conversion.gguf.types import MIXES, fitted, mixed_type
from aprnb.formats.dtypes import BY_NAME
from aprnb_tests import families

GEMMA_3_270M = (
    ("token_embd.weight", 640, "Q8_0"),
    *((f"blk.{n}.attn_k.weight", 640, "Q5_0") for n in range(18)),
    *((f"blk.{n}.attn_output.weight", 1024, "Q4_K") for n in range(18)),
    *((f"blk.{n}.attn_v.weight", 640, "Q8_0") for n in (0, 1, 4, 7, 10, 13, 15, 16, 17)),
    *((f"blk.{n}.attn_v.weight", 640, "Q5_0") for n in (2, 3, 5, 6, 8, 9, 11, 12, 14)),
    *((f"blk.{n}.ffn_down.weight", 2048, "Q6_K") for n in (0, 1, 4, 7, 10, 13, 15, 16, 17)),
    *((f"blk.{n}.ffn_down.weight", 2048, "Q4_K") for n in (2, 3, 5, 6, 8, 9, 11, 12, 14)),
)
"""Tied, 18 layers: name, row length and type in the published Q4_K_M."""
QWEN_0_5B = (
    ("output.weight", 896, "Q8_0"),
    ("token_embd.weight", 896, "Q5_0"),
    *((f"blk.{n}.attn_q.weight", 896, "Q5_0") for n in range(24)),
    *((f"blk.{n}.attn_v.weight", 896, "Q8_0") for n in (0, 1, 3, 6, 7, 8, 9, 10, 13, 16, 19, 21)),
    *((f"blk.{n}.attn_v.weight", 896, "Q5_0") for n in (2, 4, 5, 11, 12, 14, 15, 17, 18, 20, 22, 23)),
    *((f"blk.{n}.ffn_down.weight", 4864, "Q6_K") for n in (0, 1, 3, 6, 7, 8, 9, 10, 13, 16, 19, 21)),
    *((f"blk.{n}.ffn_down.weight", 4864, "Q4_K") for n in (2, 4, 5, 11, 12, 14, 15, 17, 18, 20, 22, 23)),
)
"""Untied, 24 layers, written in 2024."""


def model(real, name: str = "pocket-qwen2", **fields) -> aprnb.Architecture:
    return dataclasses.replace(aprnb.open(real(name)).architecture, **fields)


def in_text_order(name: str, layers: int) -> str:
    """The name with the place of its layer: in 2024 llama.cpp counted layers in the order blk.0, blk.1, blk.10."""
    if not name.startswith("blk."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"blk.{sorted(map(str, range(layers))).index(layer)}.{rest}"


def test_q4_k_m_gives_the_types_of_the_published_gemma_3(real):
    architecture = model(real, num_hidden_layers=18, tie_word_embeddings=True)
    found = [mixed_type(MIXES["Q4_K_M"], name, columns, architecture).name for name, columns, _ in GEMMA_3_270M]
    assert found == [expected for *_, expected in GEMMA_3_270M]


def test_q4_k_m_gives_the_types_of_the_published_qwen(real):
    architecture = model(real, num_hidden_layers=24, tie_word_embeddings=False)
    names = [(in_text_order(name, 24), columns) for name, columns, _ in QWEN_0_5B]
    found = [mixed_type(MIXES["Q4_K_M"], name, columns, architecture).name for name, columns in names]
    assert found == [expected for *_, expected in QWEN_0_5B]


@pytest.mark.real
@pytest.mark.parametrize("file", ["gemma-3-270m", "qwen2.5-coder-0.5b-instruct"])
def test_every_matrix_of_a_published_q4_k_m_has_the_type_that_the_mix_chooses(real_models, file):
    with aprnb.open(real_models / f"{file}.gguf") as checkpoint:
        assert checkpoint.metadata["gguf.kv"]["general.file_type"]["v"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
        architecture = checkpoint.architecture
        matrices = {name: entry for name, entry in checkpoint.tensors.items() if len(entry.shape) == 2}
    chosen = {}
    for name, entry in matrices.items():
        placed = in_text_order(name, 24) if "qwen" in file else name
        chosen[name] = mixed_type(MIXES["Q4_K_M"], placed, entry.shape[1], architecture).name
    assert chosen == {name: entry.dtype.name for name, entry in matrices.items()}


RULES = [
    # mix, tensor, row length, fields of the model, type: from llama_tensor_get_type_impl of llama-quant.cpp
    ("Q4_K_S", "blk.3.attn_v.weight", 256, {}, "Q5_K"),
    ("Q4_K_S", "blk.4.attn_v.weight", 256, {}, "Q4_K"),
    ("Q4_K_S", "blk.3.ffn_down.weight", 256, {}, "Q5_K"),  # 3 < 32 / 8
    ("Q4_K_S", "blk.4.ffn_down.weight", 256, {}, "Q4_K"),
    ("Q4_K_S", "output.weight", 256, {}, "Q6_K"),
    ("Q5_K_S", "blk.0.attn_v.weight", 256, {}, "Q5_K"),
    ("Q5_K_S", "blk.0.ffn_down.weight", 256, {}, "Q5_K"),
    ("Q5_K_M", "blk.0.ffn_down.weight", 256, {}, "Q6_K"),
    ("Q5_K_M", "blk.4.ffn_down.weight", 256, {}, "Q5_K"),
    ("Q5_K_M", "blk.6.attn_v.weight", 256, {}, "Q6_K"),  # (6 - 4) % 3 == 2
    ("Q5_K_M", "blk.5.ffn_up.weight", 64, {}, "Q5_1"),
    ("Q4_K_M", "blk.0.attn_qkv.weight", 256, {}, "Q6_K"),  # counted as values
    ("Q4_K_M", "blk.4.attn_qkv.weight", 256, {}, "Q4_K"),
    ("Q4_K_M", "token_embd.weight", 256, {"tie_word_embeddings": True}, "Q6_K"),
    ("Q4_K_M", "token_embd.weight", 256, {}, "Q4_K"),
    ("Q4_K_M", "blk.4.attn_v.weight", 256, {"num_hidden_layers": 80}, "Q6_K"),
    ("Q4_K_M", "blk.11.attn_v.weight", 256, {"num_hidden_layers": 80}, "Q5_K"),  # 70B of a qwen2 graph
    ("Q4_K_M", "blk.4.ffn_up.weight", 40, {}, "F16"),
    ("Q4_K_M", "output.weight", 40, {}, "F16"),
]


@pytest.mark.parametrize(("mix", "name", "columns", "fields", "expected"), RULES)
def test_a_mix_follows_the_rules_of_llama_quantize(real, mix, name, columns, fields, expected):
    architecture = model(real, **{"num_hidden_layers": 32, "tie_word_embeddings": False} | fields)
    assert mixed_type(MIXES[mix], name, columns, architecture).name == expected


@pytest.mark.parametrize(
    ("part", "expected"), [("attn_k", "Q8_0"), ("attn_v", "Q8_0"), ("attn_output", "Q5_K"), ("attn_q", "Q4_K")]
)
def test_a_model_of_eight_experts_keeps_more_bits_in_its_attention(tmp_path, part, expected):
    families.saved("mixtral", tmp_path)
    with aprnb.open(tmp_path) as checkpoint:
        architecture = checkpoint.architecture
    architecture = dataclasses.replace(architecture, extra={**architecture.extra, "num_experts": 8})
    assert mixed_type(MIXES["Q4_K_M"], f"blk.1.{part}.weight", 256, architecture).name == expected


@pytest.mark.parametrize(
    ("asked", "columns", "expected"),
    [
        ("Q4_K", 896, "Q5_0"), ("Q5_K", 896, "Q5_1"), ("Q6_K", 896, "Q8_0"), ("Q4_K", 512, "Q4_K"),
        ("Q8_0", 40, "F16"), ("Q4_0", 40, "F16"), ("Q6_K", 40, "F16"), ("F16", 40, "F16"),
    ],
)  # fmt: skip
def test_rows_that_are_not_whole_blocks_get_the_fallback_of_llama_quantize(asked, columns, expected):
    assert fitted(BY_NAME[asked], columns).name == expected


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("q4_k_s", 14), ("q4_k_m", 15), ("q5_k_s", 16), ("q5_k_m", 17), ("q6_k", 18), ("q8", 7), ("q4", 2), ("f16", 1)],
)
def test_the_stated_file_type_is_the_one_asked_for(pocket_qwen3, tmp_path, dtype, number):
    aprnb.convert(pocket_qwen3, tmp_path / "x.gguf", dtype=dtype)
    assert gguf.GGUFReader(tmp_path / "x.gguf").fields["general.file_type"].contents() == number
    aprnb.convert(tmp_path / "x.gguf", tmp_path / "y.gguf")  # and a copy states what its source states
    assert gguf.GGUFReader(tmp_path / "y.gguf").fields["general.file_type"].contents() == number


@pytest.mark.parametrize("dtype", ["q4_k", "q4_k_m", "q5_k_m", "q6_k", "q8"])
def test_llama_cpp_reads_what_is_quantised_as_aprnb_does(pocket_qwen3, tmp_path, llama_cpp, dtype):
    """llama.cpp rounds activations to 8 bits in products with quantised matrices: here up to 0.07 (F16: 0.002)."""
    path = aprnb.convert(pocket_qwen3, tmp_path / "x.gguf", dtype=dtype).path
    model, _ = aprnb.load(path, device="cpu", dtype="float32")
    ids = list(range(40, 70))
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    with llama_cpp(path) as theirs:
        found = theirs.log_probabilities(ids)
    assert max(abs(float(ours[token]) - value) for token, value in found.items()) < 0.2
    best, second = ours.topk(2).values.tolist()
    assert best - second < 0.15 or max(found, key=found.__getitem__) == int(ours.argmax())
