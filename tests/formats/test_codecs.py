"""Every decoder against the `gguf` package, every encoder against bytes that the real `apr` tool wrote."""

from __future__ import annotations

import tracemalloc
import warnings

import gguf
import numpy as np
import pytest

import aprnb
from aprnb.formats.apr.dtype_codes import readings
from aprnb.formats.codecs import can_encode, decode, encode, encode_for_gguf, stays_float32, widen_bf16
from aprnb.formats.dtypes import BY_NAME, GGML, LARGEST

OWN = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
BY_PACKAGE = ["IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"]


def random_blocks(name: str, count: int) -> np.ndarray:
    """Random bytes: every code, and scales of every kind, NaN and infinity too."""
    dtype = BY_NAME[name]
    return np.random.default_rng(7).integers(0, 256, (count, dtype.block_bytes), dtype=np.uint8)


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal to the last bit, a NaN being equal to any NaN."""
    nan = np.isnan(theirs)
    return np.array_equal(np.isnan(ours), nan) and np.array_equal(
        ours.view(np.uint32)[~nan], theirs.astype(np.float32).view(np.uint32)[~nan]
    )


@pytest.mark.parametrize("count", [1, 3, 9001])  # 9,001 blocks are enough for several parts and two threads
@pytest.mark.parametrize("name", OWN)
def test_a_decoder_gives_the_bits_of_the_gguf_package(name, count):
    blocks, dtype = random_blocks(name, count), BY_NAME[name]
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_bits(decode(blocks.tobytes(), dtype, (count * dtype.block_elements,)), expected)


@pytest.mark.parametrize("name", BY_PACKAGE)
def test_rare_types_come_from_the_gguf_package(name):
    blocks, dtype = random_blocks(name, 5), BY_NAME[name]
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(-1)
    assert same_bits(decode(blocks.tobytes(), dtype, (5 * dtype.block_elements,)), expected)


def test_an_unsupported_type_is_an_error_that_names_it():
    with pytest.raises(aprnb.AprnbError, match="Q8_K has no decoder"):
        decode(bytes(292), BY_NAME["Q8_K"], (256,))


def test_the_sizes_are_those_of_the_gguf_package():
    theirs = {int(kind): sizes for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()}
    assert GGML.keys() == theirs.keys()
    for code, dtype in GGML.items():
        if dtype.name != "Q8_1":  # the package still counts two float32; llama.cpp stores two f16
            assert (dtype.block_elements, dtype.block_bytes) == theirs[code]


@pytest.mark.parametrize("name", [*OWN, "AprQ4", "AprQ8", "F16", "F64", "I8", "F8_E4M3", "F8_E5M2"])
def test_bfloat16_is_float32_rounded_as_torch_rounds(name):
    import torch

    dtype, count = BY_NAME[name], 3000
    raw = random_blocks(name, count).tobytes()
    elements = count * dtype.block_elements
    raw = (np.float32(0.37).tobytes() + raw) if name == "AprQ8" else raw
    wide = torch.from_numpy(np.array(decode(raw, dtype, (elements,))))
    ours = torch.from_numpy(decode(raw, dtype, (elements,), to="BF16").view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours.isnan(), wide.isnan())
    assert torch.equal(ours[~ours.isnan()], wide.to(torch.bfloat16)[~wide.isnan()])


@pytest.mark.parametrize("name", ["F8_E4M3", "F8_E5M2"])
def test_eight_bit_floats_are_those_of_torch(name):
    import torch

    kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[name]
    raw = bytes(range(256))
    theirs = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(kind).float().numpy()
    assert same_bits(np.array(decode(raw, BY_NAME[name], (256,))), theirs)


def test_apr_q4_has_neighbours_in_one_byte():
    block = np.float16(0.5).tobytes() + bytes([0x98]) * 16  # low nibble 8 → 0, high nibble 9 → 1
    assert decode(block, BY_NAME["AprQ4"], (32,)).tolist() == [0.0, 0.5] * 16


def test_a_last_partial_block_gives_only_its_elements():
    blocks = random_blocks("Q8_0", 3).tobytes()
    whole = decode(blocks, BY_NAME["Q8_0"], (96,))
    assert same_bits(np.array(decode(blocks, BY_NAME["Q8_0"], (70,))), whole[:70])


def test_padded_rows_give_their_columns_and_flat_runs_continue():
    dtype = BY_NAME["Q6_K"]
    rows = random_blocks("Q6_K", 4)
    each = decode(rows.tobytes(), dtype, (4, 256))
    assert same_bits(np.array(decode(rows.tobytes(), dtype, (4, 64))), np.ascontiguousarray(each[:, :64]))
    flat = decode(rows[:1].tobytes(), dtype, (4, 64))  # 4·64 elements in one block: the older, flat layout
    assert same_bits(np.array(flat).reshape(-1), each[0])


@pytest.mark.parametrize("name", ["F32", "BF16", "AprQ8", "AprQ4", "Q4_K", "Q8_0"])
def test_an_empty_tensor_is_an_empty_array(name):
    assert decode(b"", BY_NAME[name], (0, 5)).shape == (0, 5)


@pytest.mark.parametrize("to", ["F32", "BF16"])
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "AprQ4"])
def test_temporaries_stay_below_a_tenth_of_the_result(name, to):
    dtype, elements = BY_NAME[name], 4096 * 8192
    raw = random_blocks(name, elements // dtype.block_elements).tobytes()
    tracemalloc.start()
    values = decode(raw, dtype, (4096, 8192), to=to)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * values.nbytes + 8 * 2**20  # two threads with some MiB each


@pytest.mark.parametrize(
    ("code", "size", "names"),
    [
        (2, 2048, ["BF16"]), (2, 576, ["Q4_0"]), (3, 8192, ["F64"]), (3, 640, ["Q4_1"]), (6, 1024, ["I8"]),
        (6, 704, ["Q5_0"]), (7, 1024, ["U8"]), (7, 768, ["Q5_1"]), (8, 576, ["AprQ4", "Q4_K"]), (8, 1088, ["Q8_0"]),
        (9, 1028, ["AprQ8"]), (9, 1152, ["Q8_1"]), (9, 840, ["Q6_K"]), (10, 1088, ["Q8_0"]), (10, 336, ["Q2_K"]),
        (11, 440, ["Q3_K"]), (13, 704, ["Q5_K"]), (0, 2048, ["BF16"]), (0, 336, ["Q2_K"]), (0, 440, ["Q3_K"]),
        (12, 576, ["Q4_K"]), (77, 4, []), (0, 3, []),
    ],
)  # fmt: skip
def test_sizes_tell_apart_what_a_code_has_meant(code, size, names):
    assert [dtype.name for dtype in readings(code, (4, 256), size)] == names  # 1,024 elements


@pytest.mark.parametrize(
    ("source", "quantised", "dtype"),
    [
        ("pocket-qwen3", "pocket-qwen3-int8", "AprQ8"),
        ("pocket-qwen3", "pocket-qwen3-int4", "AprQ4"),
        ("pocket-qwen3", "pocket-qwen3-q4k", "Q4_K"),
        ("pocket-qwen3", "pocket-qwen3-fp16", "F16"),
        ("pocket-qwen2", "pocket-qwen2-int8", "AprQ8"),
        ("pocket-qwen2", "pocket-qwen2-int4", "AprQ4"),
        ("pocket-qwen2", "pocket-qwen2-q4k", "Q4_K"),
        ("llama", "llama-int8", "AprQ8"),
        ("llama", "llama-q4k", "Q4_K"),
    ],
)
def test_quantising_the_float_file_gives_the_bytes_of_the_tools_quantised_file(real, source, quantised, dtype):
    with aprnb.open(real(source)) as floats, aprnb.open(real(quantised)) as blocks:
        for name, entry in blocks.tensors.items():
            kept = stays_float32(name, entry.elements) and dtype != "F16"
            assert entry.dtype.name == ("F32" if kept else dtype)
            of = "model.embed_tokens.weight" if floats.tensors[name].size_bytes == 0 else name
            assert encode(floats[of], entry.dtype) == blocks.raw(name)


@pytest.mark.parametrize("name", ["AprQ8", "AprQ4", "Q4_K", "Q6_K"])
def test_what_is_encoded_decodes_to_nearby_values(name):
    values = np.random.default_rng(3).normal(0, 0.1, (300, 256)).astype(np.float32)
    found = decode(encode(values, BY_NAME[name]), BY_NAME[name], values.shape)
    step = {"AprQ8": 127, "AprQ4": 7, "Q4_K": 15, "Q6_K": 31}[name]  # codes per side, or per range for Q4_K
    assert np.abs(found - values).max() < 1.5 * np.abs(values).max() / step


def test_q6_k_is_read_alike_by_the_gguf_package():
    values = np.random.default_rng(4).normal(0, 1, (64, 512)).astype(np.float32)
    raw = encode(values, BY_NAME["Q6_K"])
    theirs = gguf.quants.dequantize(np.frombuffer(raw, np.uint8).reshape(64, -1), gguf.GGMLQuantizationType.Q6_K)
    assert same_bits(np.array(decode(raw, BY_NAME["Q6_K"], values.shape)), theirs)
    assert np.abs(theirs - values).max() < 0.1


def hard_rows() -> np.ndarray:
    """Ordinary rows, small and large ones, zeros, one value only, and peaks of both signs in one block."""
    rows = np.random.default_rng(5).normal(0, 1, (64, 256)).astype(np.float32)
    rows[1] *= 1e-4
    rows[2] *= 1e4
    rows[3] = 0
    rows[4] = 0.37
    rows[5] = np.tile([2.0, -2.0, 0.5, -0.5], 64)
    rows[6] = np.tile([-2.0, 2.0, 0.5, -0.5], 64)
    rows[7] *= 1e-40
    rows[8, ::32] = 100.0
    return rows


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_of_32_have_the_bytes_of_the_gguf_package(name):
    rows = np.delete(hard_rows(), 7, axis=0)  # the inverse of a scale below 1e-38 overflows there, and codes wrap
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[name]).tobytes()
    assert encode(rows, BY_NAME[name]) == expected


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_the_gguf_package_decodes_what_is_encoded_to_nearby_values(name):
    """Bounds: one step over twice the block's peak; the rest is for scales and minima, in K-quants of 6 bits."""
    rows = hard_rows()
    raw = np.frombuffer(encode(rows, BY_NAME[name]), np.uint8).reshape(len(rows), -1)
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert same_bits(np.array(decode(raw.tobytes(), BY_NAME[name], rows.shape)), theirs)
    blocks = np.abs(rows).reshape(len(rows), -1, BY_NAME[name].block_elements).max(axis=2)
    steps = {"Q4_0": 8, "Q5_0": 16, "Q5_1": 15.5, "Q8_0": 127, "Q4_K": 7.5, "Q5_K": 15.5, "Q6_K": 31}[name]
    coarse = 2 / 63 if name in ("Q4_K", "Q5_K") else 0.1 / steps
    allowed = np.repeat(blocks * (1 / steps + coarse), BY_NAME[name].block_elements, axis=1) + 0.002
    assert (np.abs(theirs - rows) <= allowed).all()


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
@pytest.mark.parametrize("size", [1e-4, 0.02, 1.0])
def test_k_quants_for_gguf_are_about_as_close_as_those_of_llama_cpp(name, size):
    """llama.cpp (ggml_quantize_chunk, 2026-10) leaves 7.1 %, 3.6 % and 1.8 % of the spread in ordinary weights."""
    values = (np.random.default_rng(6).standard_normal((64, 1024)) * size).astype(np.float32)
    found = decode(encode_for_gguf(values, BY_NAME[name]), BY_NAME[name], values.shape)
    error = np.sqrt(np.mean((found - values) ** 2)) / size
    assert error < (1.15 if size > 1e-3 else 3) * {"Q4_K": 0.071, "Q5_K": 0.036, "Q6_K": 0.018}[name]


def test_values_whose_scale_exceeds_float16_are_outside_a_types_range():
    for name, largest in LARGEST.items():
        if BY_NAME[name].is_quantized:
            values = np.full((1, 256), largest * 0.999, np.float32)
            assert np.isfinite(decode(encode(values, BY_NAME[name]), BY_NAME[name], values.shape)).all()
            with np.errstate(all="ignore"):
                raw = encode(-1.1 * values, BY_NAME[name])
                assert not np.isfinite(decode(raw, BY_NAME[name], values.shape)).all()


def test_k_quants_are_only_for_rows_of_whole_blocks():
    assert can_encode(BY_NAME["Q4_K"], (3, 512))
    assert not can_encode(BY_NAME["Q4_K"], (3, 64))
    assert not can_encode(BY_NAME["Q6_K"], (512,))
    assert can_encode(BY_NAME["AprQ8"], (3, 5))


def test_unused_nibbles_of_a_last_block_are_zero():
    raw = encode(np.ones(35, np.float32), BY_NAME["AprQ4"])  # 1.0 is code 7, nibble 15
    assert raw[18 + 2 :] == bytes([0xFF, 0x0F]) + bytes(14)


def test_halves_round_away_from_zero():
    values = np.array([127, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997], np.float32)  # scale 1
    assert np.frombuffer(encode(values, BY_NAME["AprQ8"])[4:], np.int8).tolist() == [127, 1, -1, 2, 3, -3, 0]


def test_widening_is_the_upper_half_of_the_bits():
    assert widen_bf16(np.array([0x3F80, 0xC000], np.uint16)).tolist() == [1.0, -2.0]


def test_what_cannot_be_encoded_is_an_error_that_names_it():
    with pytest.raises(aprnb.AprnbError, match="aprnb cannot encode Q2_K"):
        encode(np.zeros(256, np.float32), BY_NAME["Q2_K"])
