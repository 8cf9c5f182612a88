"""What a conversion writes is told before a byte is written; no type grows without a word, and equal values stay."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

import aprnb
from aprnb.conversion.gguf.header import architecture_values
from aprnb.errors import FileMissing
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.codecs import decode
from aprnb.formats.dtypes import BY_NAME
from aprnb.formats.gguf.writer import GgufTensor, write_gguf_file

NAME = "model.layers.0.mlp.up_proj.weight"
GGUF_NAME = "blk.0.ffn_up.weight"


@pytest.fixture
def q8_0(pocket_qwen3, tmp_path) -> Path:
    return aprnb.convert(pocket_qwen3, tmp_path / "q8_0.gguf", dtype="q8").path


def changed(path: Path, replace: Mapping[str, np.ndarray], target: Path) -> Path:
    """The GGUF file with other bytes for some of its tensors."""
    data = bytearray(path.read_bytes())
    with aprnb.open(path) as checkpoint:
        for name, blocks in replace.items():
            entry = checkpoint.tensors[name]
            start = checkpoint.contents.files[0].data_start + entry.offset
            assert blocks.nbytes == entry.size_bytes
            data[start : start + entry.size_bytes] = blocks.tobytes()
    target.write_bytes(data)
    return target


def blocks_of(name: str, path: Path, scales: np.ndarray, seed: int = 1, codes: int = 256) -> np.ndarray:
    """Random codes below `codes` under the given scales, one per block, in turn."""
    with aprnb.open(path) as checkpoint:
        entry = checkpoint.tensors[name]
    count = entry.size_bytes // entry.dtype.block_bytes
    blocks = np.random.default_rng(seed).integers(0, codes, (count, entry.dtype.block_bytes)).astype(np.uint8)
    blocks[:, :2] = np.resize(scales, count).astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks


def written_as(path: Path, target: Path, name: str, **options) -> tuple[str, np.ndarray]:
    with aprnb.open(aprnb.convert(path, target, **options).path) as checkpoint:
        return checkpoint.tensors[name].dtype.name, checkpoint[name]


@pytest.mark.parametrize(
    ("scales", "codes", "kind"),
    [
        ([0.01], 256, "AprQ8"),  # one scale
        ([0.01, 0.02], 64, "AprQ8"),  # whole multiples, within 127 of the least
        ([0.01, 0.0], 1, "AprQ8"),  # blocks of zeros
        ([0.01, 0.02], 128, "F16"),  # beyond 127
        ([0.01, 0.015], 40, "F16"),  # no whole multiple
    ],
)
def test_q8_0_becomes_apr_q8_with_every_value_or_else_f16(q8_0, tmp_path, scales, codes, kind):
    source = changed(q8_0, {GGUF_NAME: blocks_of(GGUF_NAME, q8_0, np.array(scales), codes=codes)}, tmp_path / "x.gguf")
    found, values = written_as(source, tmp_path / "x.apr", NAME)
    with aprnb.open(source) as checkpoint:
        expected = checkpoint[GGUF_NAME]
    assert found == kind
    if kind == "AprQ8":
        assert np.array_equal(values, expected)
    else:
        assert np.array_equal(values, expected.astype(np.float16))


@pytest.mark.parametrize(("scale", "kind"), [(0.01, "AprQ4"), (-0.01, "AprQ4"), (0.0, "AprQ4"), (3e-5, "F16")])
def test_q4_0_becomes_apr_q4_with_every_value(pocket_qwen3, tmp_path, scale, kind):
    """The tool reads an AprQ4 scale below 6.1e-5 as 0, so such a tensor becomes F16."""
    source = aprnb.convert(pocket_qwen3, tmp_path / "q4_0.gguf", dtype="q4").path
    blocks = blocks_of(GGUF_NAME, source, np.array([0.25, scale]))
    source = changed(source, {GGUF_NAME: blocks}, tmp_path / "x.gguf")
    found, values = written_as(source, tmp_path / "x.apr", NAME)
    with aprnb.open(source) as checkpoint:
        exact = checkpoint[GGUF_NAME]
    assert found == kind
    assert np.array_equal(values, exact if kind == "AprQ4" else exact.astype(np.float16))


@pytest.mark.parametrize(("scale", "kind"), [(0.5, "Q8_0"), (0.1, "F16")])
def test_apr_q8_becomes_q8_0_where_float16_holds_its_scale(real, tmp_path, scale, kind):
    base = aprnb.open(real("pocket-qwen3-int8"))
    raw = {name: base.raw(name) for name in base}
    raw[NAME] = np.float32(scale).tobytes() + raw[NAME][4:]
    tensors = [TensorSource(n, e.dtype, e.shape, lambda n=n: raw[n]) for n, e in base.tensors.items()]
    write_apr(tmp_path / "in.apr", base.metadata, tensors)
    found, values = written_as(tmp_path / "in.apr", tmp_path / "x.gguf", GGUF_NAME)
    with aprnb.open(tmp_path / "in.apr") as checkpoint:
        exact = checkpoint[NAME]
    assert found == kind
    assert np.array_equal(values, exact if kind == "Q8_0" else exact.astype(np.float16))


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q5_K", "Q2_K", "Q3_K", "IQ4_NL"])
@pytest.mark.parametrize("target", ["x.apr", "x.safetensors", "folder"])
def test_blocks_without_a_type_in_the_target_become_f16_and_are_counted(real, tmp_path, kind, target):
    source = of_type(real("pocket-qwen2"), tmp_path / "in.gguf", kind)
    converted = aprnb.convert(source, tmp_path / target)
    with aprnb.open(source) as before, aprnb.open(converted.path) as after:
        quantised = [name for name, entry in before.tensors.items() if entry.dtype.is_quantized]
        kinds = [entry.dtype.name for entry in after.tensors.values()]
        assert kinds.count("F16") == len(quantised) > 10
        assert after.tensors[NAME].dtype.name == "F16"
        assert np.array_equal(after[NAME], before[GGUF_NAME].astype(np.float16))
    (warning,) = [text for text in converted.warnings if "written as F16" in text]
    assert f"{len(quantised)} of" in warning and f"in place of {kind}" in warning and "0.05 %" in warning


def of_type(source: Path, target: Path, kind: str) -> Path:
    """A GGUF file without a tokenizer, whose matrices are blocks of `kind` with small scales and random codes."""
    first = aprnb.open(aprnb.convert(source, target.with_name("f16.gguf"), dtype="f16").path)
    dtype, rng = BY_NAME[kind], np.random.default_rng(3)

    def random(shape: tuple[int, ...]) -> bytes:
        raw = rng.integers(0, 256, (int(np.prod(shape)) // dtype.block_elements, dtype.block_bytes), dtype=np.uint8)
        for start in {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q5_K": (0, 2)}.get(kind, (0,)):
            raw[:, start] = np.arange(len(raw))  # no common scale
            raw[:, start + 1] = 0x18  # 2e-3 to 4e-3
        return raw.tobytes()

    tensors = [
        GgufTensor(name, dtype, entry.shape, lambda entry=entry: iter([random(entry.shape)]))
        if len(entry.shape) == 2
        else GgufTensor(name, entry.dtype, entry.shape, lambda name=name: iter([first.raw(name)]))
        for name, entry in first.tensors.items()
    ]
    write_gguf_file(target, architecture_values(first.architecture), tensors)
    return target


def test_the_bf16_of_the_sources_config_is_the_type_of_decoded_blocks_in_a_folder(real, tmp_path):
    base = aprnb.open(real("pocket-qwen3-int8"))
    tensors = [TensorSource(n, e.dtype, e.shape, lambda n=n: base.raw(n)) for n, e in base.tensors.items()]
    for dtype, kind in (("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F16"), (None, "F16")):
        config = {**base.architecture.as_config(), "torch_dtype": dtype, "dtype": dtype}
        write_apr(tmp_path / "in.apr", {**base.metadata, "hf_config": config}, tensors, force=True)
        converted = aprnb.convert(tmp_path / "in.apr", tmp_path / "folder", force=True)
        assert {row.written for row in converted.plan.rows if row.stored == "AprQ8"} == {kind, "tied"}
        assert any(f"written as {kind}" in warning for warning in converted.warnings)


@pytest.mark.parametrize("target", ["x.apr", "x.gguf", "x.safetensors"])
@pytest.mark.parametrize("dtype", [None, "f16"])
def test_the_plan_states_the_bytes_that_are_written(q8_0, tmp_path, target, dtype):
    plan = aprnb.plan_conversion(q8_0, tmp_path / target, dtype=dtype)
    assert not (tmp_path / target).exists()
    announced = []
    converted = aprnb.convert(q8_0, tmp_path / target, dtype=dtype, on_plan=announced.append)
    assert announced == [plan] == [converted.plan]
    with aprnb.open(converted.path) as after, aprnb.open(q8_0) as before:
        assert plan.size_bytes == sum(entry.size_bytes for entry in after.tensors.values())
        assert plan.source_bytes == sum(entry.size_bytes for entry in before.tensors.values())


def test_a_plan_into_a_folder_that_is_missing_fails_as_the_conversion_would(q8_0, tmp_path):
    for work in (aprnb.plan_conversion, aprnb.convert):
        with pytest.raises(FileMissing, match="no folder .*missing"):
            work(q8_0, tmp_path / "missing" / "x.gguf")


def test_the_plan_comes_before_the_first_byte(q8_0, tmp_path):
    seen = []
    aprnb.convert(q8_0, tmp_path / "x.apr", on_plan=lambda _: seen.extend(tmp_path.iterdir()))
    assert seen == [q8_0]


@pytest.mark.parametrize("target", ["x.apr", "x.gguf"])
def test_every_dtype_that_a_plan_offers_gives_the_size_that_it_states(pocket_qwen3, tmp_path, target):
    source = aprnb.convert(pocket_qwen3, tmp_path / "f32.apr", dtype="f32").path
    plan = aprnb.plan_conversion(source, tmp_path / target)
    assert [name for name, _ in plan.smaller][:2] == ["f16", "q8"]
    for dtype, size in plan.smaller:
        with aprnb.open(aprnb.convert(source, tmp_path / target, dtype=dtype, force=True).path) as written:
            assert sum(entry.size_bytes for entry in written.tensors.values()) == size < plan.size_bytes


def test_a_target_that_grows_names_what_makes_it_smaller(q8_0, tmp_path):
    plan = aprnb.plan_conversion(q8_0, tmp_path / "x.apr")
    assert plan.size_bytes > 1.5 * plan.source_bytes
    assert "What becomes what" in str(aprnb.convert(q8_0, tmp_path / "y.apr"))
    assert "smaller with" in str(plan) and "--dtype q8 (" in str(plan) and "--dtype q8 (" in plan.to_html()
    assert "smaller with" not in str(aprnb.plan_conversion(q8_0, tmp_path / "x.gguf"))


def test_a_disk_without_room_is_an_error_with_both_numbers_and_what_fits(q8_0, tmp_path, monkeypatch):
    plan = aprnb.plan_conversion(q8_0, tmp_path / "x.apr")
    free = dict(plan.smaller)["q8"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - free, free))
    with pytest.raises(aprnb.AprnbError) as caught:
        aprnb.convert(q8_0, tmp_path / "x.apr")
    assert f"{plan.size_bytes:,} bytes" in str(caught.value) and f"{free:,} bytes" in str(caught.value)
    assert "--dtype q8 (" in str(caught.value)
    assert list(tmp_path.iterdir()) == [q8_0]
    aprnb.convert(q8_0, tmp_path / "x.apr", dtype="q8")


def test_a_mix_for_another_format_is_an_error_that_says_what_to_give(pocket_qwen3, tmp_path):
    with pytest.raises(aprnb.AprnbError, match="mix of GGUF types") as caught:
        aprnb.convert(pocket_qwen3, tmp_path / "x.apr", dtype="q4_k_m")
    assert "--dtype q4_k" in str(caught.value)
    with pytest.raises(aprnb.AprnbError, match="hold floats only"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.safetensors", dtype="q4_k_m")
    assert list(tmp_path.iterdir()) == []


def test_a_tied_head_takes_no_bytes_in_any_format(real, tmp_path):
    """The source has the head a second time, with the embedding's bytes."""
    base = aprnb.open(real("pocket-qwen3"))
    embedding = "model.embed_tokens.weight"
    names = {name: embedding if name == "lm_head.weight" else name for name in base}
    tensors = [
        TensorSource(n, base.tensors[of].dtype, base.tensors[of].shape, lambda of=of: base.raw(of))
        for n, of in names.items()
    ]
    write_apr(tmp_path / "in.apr", base.metadata, tensors)
    for target in ("x.apr", "x.gguf", "x.safetensors", "folder"):
        converted = aprnb.convert(tmp_path / "in.apr", tmp_path / target)
        (head,) = [row for row in converted.plan.rows if row.part == "head"]
        assert (head.stored, head.written, head.stored_bytes, head.written_bytes) == ("BF16", "tied", 262_144, 0)
        with aprnb.open(converted.path) as written:
            heads = [e.size_bytes for n, e in written.tensors.items() if n in ("lm_head.weight", "output.weight")]
            assert heads == ([0] if target == "x.apr" else [])
            if target != "x.safetensors":  # which has no config
                assert written.architecture.tie_word_embeddings


@pytest.mark.apr
@pytest.mark.parametrize("dtype", [None, "q8", "q4_k", "f16"])
def test_the_real_tool_runs_a_file_with_a_tied_head_without_bytes(pocket_qwen3, tmp_path, apr_binary, sources, dtype):
    target = aprnb.convert(pocket_qwen3, tmp_path / "x.apr", dtype=dtype).path
    assert aprnb.open(target).tensors["lm_head.weight"].is_tied_placeholder
    answer = json.loads((sources / "qwen3" / "answers.json").read_text())[0]
    prompt = f"<|im_start|>user\n{answer['question']}<|im_end|>\n<|im_start|>assistant\n"
    command = [apr_binary, "run", target, prompt, "-n", "24", "--no-gpu", "--json", "--offline"]
    said = json.loads(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)
    assert said["text"] == answer["answer"]


@pytest.mark.parametrize("dtype", ["q4_k", "q4_k_m"])
def test_rows_that_are_no_multiple_of_256_are_quantised_in_gguf(pocket_qwen3, tmp_path, dtype):
    """All matrices of this model but the three o_proj have rows of 128 or 384."""
    converted = aprnb.convert(pocket_qwen3, tmp_path / "x.gguf", dtype=dtype)
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(converted.path).tensors}
    assert kinds == {"F32", "Q4_K", "Q5_0"} | ({"Q8_0"} if dtype == "q4_k_m" else set())
    assert any("Q5_0 in place of Q4_K" in text for text in converted.warnings) == (dtype == "q4_k")


def test_published_sizes_are_kept(real, tmp_path):
    """A copy has the bytes of its source, tensor by tensor."""
    first = aprnb.convert(real("pocket-qwen3"), tmp_path / "a.gguf", dtype="q4_k_m")
    second = aprnb.convert(first.path, tmp_path / "b.gguf", dtype="q4_k_m")
    with aprnb.open(first.path) as one, aprnb.open(second.path) as other:
        assert all(one.raw(name) == other.raw(name) for name in one)
    assert not any("second time" in warning for warning in second.warnings)


@pytest.mark.real
def test_the_published_qwen_grows_to_f16_and_not_to_f32(real_models, tmp_path):
    """Q5_0 and Q8_0 were F32 once: 2.03 GiB; its own head of Q8_0 beside an embedding of Q5_0 is kept."""
    plan = aprnb.plan_conversion(real_models / "qwen2.5-coder-0.5b-instruct.gguf", tmp_path / "x.apr")
    assert plan.size_bytes < 1.06 * 2**30
    assert {(row.part, row.stored, row.written) for row in plan.rows if row.part != "others"} == {
        ("embedding", "Q5_0", "F16"), ("head", "Q8_0", "F16")
    }  # fmt: skip
    assert dict(plan.smaller)["q8"] < 0.6 * plan.size_bytes


@pytest.mark.real
def test_the_published_gemma_has_its_embedding_once(real_models, tmp_path):
    plan = aprnb.plan_conversion(real_models / "gemma-3-270m.gguf", tmp_path / "x.apr")
    assert [(row.written, row.written_bytes) for row in plan.rows if row.part == "head"] == [("tied", 0)]
    assert plan.size_bytes < 470 * 2**20


def test_decoding_is_the_judge_of_equal_blocks():
    """An AprQ4 byte holds neighbours, a Q4_0 byte elements 16 apart: the same 32 values from both."""
    from aprnb.formats.codecs.equal_blocks import apr_q4_to_ggml, q4_0_to_apr

    blocks = np.random.default_rng(2).integers(0, 256, (100, 18), dtype=np.uint8)
    blocks[:, 1] &= 0x7B  # finite scales
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(decode(q4_0_to_apr(blocks).tobytes(), BY_NAME["AprQ4"], (100, 32)), theirs)
    assert np.array_equal(apr_q4_to_ggml(q4_0_to_apr(blocks)), blocks)
