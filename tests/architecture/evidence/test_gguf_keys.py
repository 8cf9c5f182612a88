"""What GGUF keys say about the architecture, and what happens where they say nonsense."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import aprnb
from aprnb.architecture.evidence.rope import LLAMA3, llama3_factors, longrope_attention_factor
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import F32
from aprnb_tests.gguf_bytes import ARRAY, BOOL, I32, STRING, U32, info, pair, whole
from aprnb_tests.gguf_bytes import F32 as FLOAT

LLAMA = {
    "context_length": (U32, 131072), "embedding_length": (U32, 32), "block_count": (U32, 1),
    "feed_forward_length": (U32, 16), "attention.head_count": (U32, 2), "attention.head_count_kv": (U32, 1),
    "rope.freq_base": (FLOAT, 500000.0), "attention.layer_norm_rms_epsilon": (FLOAT, 1e-5), "vocab_size": (U32, 32),
}  # fmt: skip
SHAPES = {
    "token_embd": (32, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
    "blk.0.attn_q": (32, 32), "blk.0.attn_k": (32, 16), "blk.0.attn_v": (32, 16), "blk.0.attn_output": (32, 32),
    "blk.0.ffn_gate": (32, 16), "blk.0.ffn_up": (32, 16), "blk.0.ffn_down": (16, 32),
}  # fmt: skip
"""As GGUF lists them, fastest first: two heads of 16, one for keys; 32 tokens."""


def model(path, keys=None, factors=None, slug="llama"):
    """A llama of one layer; `factors` become `rope_freqs.weight`."""
    stated = {key: value for key, value in {**LLAMA, **(keys or {})}.items() if value is not None}
    pairs = [pair("general.architecture", STRING, slug), *(pair(f"{slug}.{k}", *v) for k, v in stated.items())]
    infos, data = [], b""
    for name, dims in SHAPES.items():
        infos.append(info(f"{name}.weight", dims, 0, len(data)))
        data += bytes(-(-4 * int(np.prod(dims)) // 32) * 32)
    if factors is not None:
        infos.append(info("rope_freqs.weight", (len(factors),), 0, len(data)))
        data += struct.pack(f"<{len(factors)}f", *factors) + bytes(-4 * len(factors) % 32)
    path.write_bytes(whole(pairs, infos, data))
    return aprnb.open(path)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_a_tensor_of_factors_is_llama_3s_scaling(tmp_path, factor):
    factors = llama3_factors({"factor": factor, **LLAMA3}, 5e5, 16)
    assert (factors[0], factors[-1]) == (1, factor)  # the shortest wave fits the old context, the longest is far beyond
    report = aprnb.check(model(tmp_path / "x.gguf", factors=factors))
    assert report.ok
    assert report.architecture.rope_scaling == {"rope_type": "llama3", "factor": factor, **LLAMA3}
    assert "rope_freqs.weight" in report.architecture.sources["rope_scaling"]


def test_an_apr_that_kept_the_factors_is_read_the_same(tmp_path):
    """The real tool copies the tensor and drops every key about rotation."""
    source = model(tmp_path / "x.gguf", factors=llama3_factors({"factor": 8.0, **LLAMA3}, 5e5, 16))
    metadata = {key: value for key, value in source.metadata.items() if key != "gguf.kv"}
    tensors = [TensorSource(n, F32, e.shape, lambda n=n: source.raw(n)) for n, e in source.tensors.items()]
    write_apr(tmp_path / "x.apr", metadata, tensors)
    report = aprnb.check(tmp_path / "x.apr")
    assert report.ok and report.architecture.rope_scaling == source.architecture.rope_scaling


def test_long_llama_3_without_its_factors_stays_unsettled(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="does not state rope_scaling"):
        aprnb.check(model(tmp_path / "x.gguf"))


def test_other_long_models_are_unscaled_where_no_key_says_so(tmp_path):
    checkpoint = model(tmp_path / "x.gguf", {"rope.freq_base": (FLOAT, 1e6)})
    assert checkpoint.architecture.rope_scaling is None
    assert checkpoint.architecture.sources["rope_scaling"] == "GGUF llama.rope.scaling.type absent"


NONSENSE = {
    "an unknown scaling": ({"rope.scaling.type": (STRING, "magic")}, "RoPE scaling 'magic' is not supported"),
    "a scaling that is a number": ({"rope.scaling.type": (U32, 7)}, "RoPE scaling '7' is not supported|RoPE scaling 7"),
    "a scaling without its factor": ({"rope.scaling.type": (STRING, "linear")}, "linear without a factor"),
    "a factor in words": (
        {"rope.scaling.type": (STRING, "yarn"), "rope.scaling.factor": (STRING, "two")}, "yarn without a factor"),
    "a negative base": ({"rope.freq_base": (FLOAT, -1.0)}, "GGUF llama.rope.freq_base is -1.0"),
    "a size in words": ({"embedding_length": (STRING, "eight")}, "GGUF llama.embedding_length is 'eight'"),
    "a truth value as a size": ({"block_count": (BOOL, 1)}, "GGUF llama.block_count is True"),
    "no heads": ({"attention.head_count": (U32, 0)}, "GGUF llama.attention.head_count is 0"),
    "positions below zero": ({"context_length": (I32, -1)}, "GGUF llama.context_length is -1"),
    "heads that differ": (
        {"attention.head_count_kv": (ARRAY, (U32, [2, 2, 1]))},
        r"GGUF llama.attention.head_count_kv differs between layers: \[2, 2, 1\]"),
    "no heads for keys": (
        {"attention.head_count_kv": None},
        r"1 according to .*, 2 according to GGUF llama.attention.head_count \(attention.head_count_kv is absent\)"),
    "layers that differ": ({"feed_forward_length": (ARRAY, (U32, [16, 8]))}, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_in_a_key_is_one_clear_error(tmp_path, case):
    keys, words = NONSENSE[case]
    scaled = {"rope.freq_base": (FLOAT, 1e6), **keys}
    if not words:  # the shapes prove the size, the key says nothing of use
        assert aprnb.check(model(tmp_path / "x.gguf", scaled)).architecture.intermediate_size == 16
        return
    with pytest.raises(aprnb.AprnbError, match=words) as caught:
        aprnb.check(model(tmp_path / "x.gguf", scaled))
    assert caught.value.exit_code == 5


def test_impossible_factors_are_rejected(tmp_path):
    for factors in ([float("nan"), 8.0], [1.0, -8.0], [1.0] * 5000, []):
        with pytest.raises(aprnb.AprnbError, match="not those of a published Llama 3|at most 4,096 floats"):
            aprnb.check(model(tmp_path / "x.gguf", factors=factors))


def test_the_formulas_are_those_of_transformers():
    """Numbers computed once by ROPE_INIT_FUNCTIONS of transformers 5.23 for Llama-3.1-8B and Phi-3.5-mini."""
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "factor": 8.0, **LLAMA3}
    config = LlamaConfig(
        hidden_size=4096, num_attention_heads=32, max_position_embeddings=131072,
        rope_parameters={**scaling, "rope_theta": 5e5},
    )  # fmt: skip
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 5e5 ** (np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(plain / llama3_factors(scaling, 5e5, 128), scaled.numpy(), rtol=1e-5)
    assert longrope_attention_factor(131072, 4096) == pytest.approx(1.190238, abs=1e-6)  # √(1 + ln 32 / ln 4096)


SCALED = {
    "the older key": ({"rope.scale_linear": (FLOAT, 4.0)}, {"rope_type": "linear", "factor": 4.0}),
    "a factor without a type": ({"rope.scaling.factor": (FLOAT, 4.0)}, {"rope_type": "linear", "factor": 4.0}),
    "both keys": (
        {"rope.scale_linear": (FLOAT, 4.0), "rope.scaling.factor": (FLOAT, 4.0)},
        {"rope_type": "linear", "factor": 4.0}),
    "no scaling, and the older key": (
        {"rope.scaling.type": (STRING, "none"), "rope.scale_linear": (FLOAT, 4.0)}, None),
    "yarn with an attention factor": (
        {"rope.scaling.type": (STRING, "yarn"), "rope.scaling.factor": (FLOAT, 4.0),
         "rope.scaling.attn_factor": (FLOAT, 1.5)},
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": pytest.approx(1.5 * 1.138629)}),  # 0.1 ln 4 + 1
}  # fmt: skip


@pytest.mark.parametrize("case", SCALED)
def test_scaled_rotation_is_what_llama_cpp_reads(tmp_path, case):
    keys, scaling = SCALED[case]
    found = model(tmp_path / "x.gguf", {"rope.freq_base": (FLOAT, 1e6), **keys}).architecture.rope_scaling
    assert found == scaling


TWICE = {
    "two factors": ({"rope.scale_linear": (FLOAT, 2.0), "rope.scaling.factor": (FLOAT, 4.0)}, False,
                    "4.0 according to llama.rope.scaling.factor, 2.0 according to llama.rope.scale_linear"),
    "an attention factor of its own": ({"rope.scaling.attn_factor": (FLOAT, 1.5)}, False,
                                       "llama.rope.scaling.attn_factor is 1.5"),
    "an attention factor of linear": (
        {"rope.scaling.attn_factor": (FLOAT, 1.5), "rope.scaling.factor": (FLOAT, 4.0),
         "rope.scaling.type": (STRING, "linear")}, False, "attn_factor is 1.5, RoPE scaling linear"),
    "a factor and a tensor of them": ({"rope.scale_linear": (FLOAT, 2.0)}, True,
                                      "scaled twice: by rope_freqs.weight and by a factor of 2.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", TWICE)
def test_what_only_llama_cpp_scales_is_an_error_that_names_the_key(tmp_path, case):
    keys, tensor, words = TWICE[case]
    factors = llama3_factors({"factor": 8.0, **LLAMA3}, 5e5, 16) if tensor else None
    with pytest.raises(aprnb.errors.ArchitectureError, match=words):
        _ = model(tmp_path / "x.gguf", keys, factors).architecture


def test_a_vocabulary_without_tensors_is_named_as_such(tmp_path):
    words = pair("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "b"]))
    (tmp_path / "v.gguf").write_bytes(whole([pair("general.architecture", STRING, "llama"), words]))
    with pytest.raises(aprnb.errors.UnsupportedFamily, match="v.gguf contains a vocabulary and no tensors"):
        aprnb.check(tmp_path / "v.gguf")
