"""What `convert` makes of a source is what `apr import` makes of it, byte for byte, less the defects that are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aprnb
from aprnb_tests.apr_bytes import with_metadata

TIED = {"tied_embeddings"}  # true, although it has a trained head
ROTATION = {"rope_type"}  # 0 (interleaved) for split halves
HF: dict[str, tuple[str, str | None, set[str]]] = {
    "pocket-qwen3": ("qwen3", None, set()),
    "pocket-qwen3-fp16": ("qwen3", "f16", set()),
    "pocket-qwen3-int8": ("qwen3", "q8", set()),
    "pocket-qwen3-int4": ("qwen3", "q4", set()),
    "pocket-qwen2": ("qwen2", None, TIED),
    "pocket-qwen2-int8": ("qwen2", "q8", set()),
    "pocket-qwen2-int4": ("qwen2", "q4", set()),
    "pocket-qwen2-q4k": ("qwen2", "q4_k", set()),
    "llama": ("llama", None, TIED | ROTATION),
    "llama-int8": ("llama", "q8", ROTATION),
    "llama-q4k": ("llama", "q4_k", ROTATION),
    "mistral": ("mistral", None, ROTATION),
    "gemma": ("gemma", None, ROTATION),
    # A model without rotation; and the end token is config.json's, not the one that tokenizer_config.json names.
    "gpt2": ("gpt2", None, {"rope_theta", "rope_type", "tokenizer.eos_token_id"}),
    "qwen3-untied": ("qwen3-untied", None, TIED),
    "qwen3-untied-sharded": ("qwen3-untied", None, {"model_type", "param_count"}),  # named after the class, and 0
}
"""The tool's file → its source, the dtype asked for, and the metadata in which that tool is wrong."""
GGUF = {
    "gguf-qwen2-f16": ("qwen2-F16", {"description"}),
    "gguf-llama-f16": ("llama-F16", {"description"}),
    "gguf-qwen3-f16": ("qwen3-untied-F16", {"description", "name", *ROTATION}),
}
"""The description claims Q4_K for every file; the name is the family's, where general.name says qwen3-untied."""


def compared(
    ours: aprnb.Checkpoint, theirs: aprnb.Checkpoint, defects: set[str], mirrors: tuple[str, ...] = ()
) -> None:
    assert set(ours) == set(theirs)
    for name, entry in theirs.tensors.items():
        written = ours.tensors[name]
        assert written.shape == entry.shape
        if not written.is_tied_placeholder:
            assert (written.dtype.name, ours.raw(name)) == (entry.dtype.name, theirs.raw(name)), name
        elif entry.size_bytes:  # the tool writes a tied head again in F32 and quantised files
            assert theirs.raw(name) == theirs.raw("model.embed_tokens.weight")
    differ = {
        key
        for key, value in theirs.metadata.items()
        if value is not None and ours.metadata.get(key) != value and not key.startswith(mirrors or ("\0",))
    }
    assert differ - {"tokenizer.vocabulary"} == defects
    if "tokenizer.vocabulary" in differ:  # ids without a token are told from the token <unk>
        vocabulary = enumerate(theirs.metadata["tokenizer.vocabulary"])
        holes = [f"[PAD{at}]" if text == "<unk>" and at else text for at, text in vocabulary]
        assert ours.metadata["tokenizer.vocabulary"] == holes
    assert "hf_config" in ours.metadata


@pytest.mark.parametrize("name", HF)
def test_a_folder_becomes_what_the_tool_imports(real, fixtures_folder, name, tmp_path):
    source, dtype, defects = HF[name]
    converted = aprnb.convert(fixtures_folder / "sources" / source, tmp_path / f"{name}.apr", dtype=dtype)
    compared(aprnb.open(converted.path), aprnb.open(real(name)), defects)


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_becomes_what_the_tool_imports(real, fixtures_folder, name, tmp_path):
    source, defects = GGUF[name]
    converted = aprnb.convert(fixtures_folder / "gguf" / f"{source}.gguf", tmp_path / f"{name}.apr")
    theirs = aprnb.open(real(name))
    compared(aprnb.open(converted.path), theirs, defects, mirrors=("model.",))


@pytest.mark.parametrize("dtype", [None, "f16", "q8"])
def test_gpt2s_fused_projection_is_written_apart_in_any_dtype(fixtures_folder, dtype, tmp_path):
    source = aprnb.open(fixtures_folder / "sources" / "gpt2")
    ours = aprnb.open(aprnb.convert(source, tmp_path / "x.apr", dtype=dtype).path)
    fused = source["transformer.h.1.attn.c_attn.weight"]
    for number, part in enumerate("qkv"):
        expected, found = (
            fused[:, 128 * number : 128 * (number + 1)],
            ours[f"model.layers.1.self_attn.{part}_proj.weight"],
        )
        assert np.abs(found - expected).max() <= {None: 0, "f16": 2**-11, "q8": 1 / 250}[dtype] * np.abs(expected).max()
    assert aprnb.check(ours).ok


def test_a_matrix_whose_rows_are_not_whole_blocks_becomes_apr_q8_and_is_counted(pocket_qwen3, tmp_path):
    converted = aprnb.convert(pocket_qwen3, tmp_path / "x.apr", dtype="q4_k")
    ours = aprnb.open(converted.path)
    kinds = {name: entry.dtype.name for name, entry in ours.tensors.items()}
    assert kinds["model.layers.0.self_attn.o_proj.weight"] == "Q4_K"  # 256 columns
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == "AprQ8"  # 128 columns
    assert kinds["model.norm.weight"] == "F32"
    assert any("matrices are AprQ8 in place of Q4_K" in warning for warning in converted.warnings)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8", "q4", "q4_k", "q6_k"])
def test_every_dtype_gives_a_file_that_holds_its_contract_and_nearly_its_values(real, dtype, tmp_path):
    base = aprnb.open(real("pocket-qwen2"))
    ours = aprnb.open(aprnb.convert(base, tmp_path / "x.apr", dtype=dtype).path)
    assert aprnb.check(ours).ok
    name = "model.layers.0.mlp.up_proj.weight"
    expected = base[name]
    loose = {"f32": 0, "f16": 0, "bf16": 2**-8, "q8": 1 / 250, "q4": 1 / 13, "q4_k": 1 / 13, "q6_k": 1 / 50}[dtype]
    assert np.abs(ours[name] - expected).max() <= loose * np.abs(expected).max()


def test_writing_twice_gives_the_same_bytes(pocket_qwen3, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        aprnb.convert(pocket_qwen3, tmp_path / folder / "x.apr")
    assert (tmp_path / "a" / "x.apr").read_bytes() == (tmp_path / "b" / "x.apr").read_bytes()


def test_the_tokenizer_of_the_source_comes_back_whole(sources, fixtures_folder, tmp_path):
    """llama's source splits text as Qwen does, whatever its family's rule says."""
    from tokenizers import Tokenizer

    source = fixtures_folder / "sources" / "llama"
    _, tokenizer = aprnb.load(aprnb.convert(source, tmp_path / "x.apr").path)
    theirs = Tokenizer.from_file(str(source / "tokenizer.json"))
    for text in ("What is 12 plus 345?", "naïve café ☕ 你好", "<|im_start|>user\nhi<|im_end|>\n"):
        assert tokenizer(text, add_special_tokens=False).input_ids == theirs.encode(text, add_special_tokens=False).ids


def test_rejections_leave_no_files(pocket_qwen3, tmp_path):
    cases = [
        ({"target": "x.bin"}, "cannot be written"),
        ({"target": "x.apr", "dtype": "q5"}, "--dtype 'q5'"),
        ({"target": "x.safetensors", "dtype": "q8"}, "hold floats only"),
        ({"target": "missing/x.apr"}, "no folder"),
    ]
    for options, message in cases:
        with pytest.raises(aprnb.AprnbError, match=message):
            aprnb.convert(pocket_qwen3, tmp_path / options.pop("target"), **options)
    (tmp_path / "there.apr").write_bytes(b"mine")
    with pytest.raises(aprnb.AprnbError, match="exists"):
        aprnb.convert(pocket_qwen3, tmp_path / "there.apr")
    copy = tmp_path / "copy.apr"
    copy.write_bytes(pocket_qwen3.read_bytes())
    with pytest.raises(aprnb.AprnbError, match="copy.apr, which is read"):
        aprnb.convert(copy, copy, force=True)
    assert (tmp_path / "there.apr").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.apr", "there.apr"]


def test_an_unsupported_model_is_not_converted(foreign, tmp_path):
    with pytest.raises(aprnb.AprnbError, match="family 'bert'"):
        aprnb.convert(foreign / "slice_model.apr", tmp_path / "x.apr")
    assert list(tmp_path.iterdir()) == []


def test_the_result_shows_itself(pocket_qwen3, tmp_path):
    converted = aprnb.convert(pocket_qwen3, tmp_path / "x.apr")
    names = {"source", "path", "format", "tensors", "size_bytes", "sizes", "seconds", "assumptions", "warnings"}
    assert names == set(converted.to_json())
    assert "Converted x.apr" in str(converted)
    assert converted.size_bytes == Path(tmp_path / "x.apr").stat().st_size


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_act", "gelu"), ("rope_theta", 123.0), ("rms_norm_eps", 0.5), ("max_position_embeddings", 77)],
)
def test_set_fields_are_written_in_place_of_the_sources_config(fixtures_folder, field, value, tmp_path):
    source = fixtures_folder / "sources" / "qwen3"
    converted = aprnb.convert(source, tmp_path / "x.apr", overrides={field: value})
    with aprnb.open(converted.path) as written, aprnb.open(source) as base:
        assert written.architecture.fields() == {**base.architecture.fields(), field: value}
        stated, kept = base.metadata["hf_config"], written.metadata["hf_config"]
        assert {key: kept[key] for key in ("bos_token_id", "eos_token_id") if key in stated} == {
            key: stated[key] for key in ("bos_token_id", "eos_token_id") if key in stated
        }


def test_a_tokenizer_that_cannot_be_used_here_is_told(pocket_qwen3, tmp_path):
    metadata = {**aprnb.open(pocket_qwen3).metadata, "tokenizer.pre_type": "mystery"}
    (tmp_path / "odd.apr").write_bytes(with_metadata(pocket_qwen3.read_bytes(), metadata))
    written = aprnb.convert(tmp_path / "odd.apr", tmp_path / "x.apr")
    told = "the tokenizer is kept as it is, and cannot be used here: pre-tokenizer 'mystery'"
    assert any(told in warning for warning in written.warnings)
    assert aprnb.open(tmp_path / "x.apr").metadata["tokenizer.pre_type"] == "mystery"
