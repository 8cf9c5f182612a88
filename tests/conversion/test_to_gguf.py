"""What is written as GGUF: read by the gguf package, transformers, the real tool and by us, with the same results."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import aprnb
from aprnb.conversion.gguf.tensors import permute
from aprnb.conversion.gguf.to_gguf import write_gguf
from aprnb.errors import OutputError
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BF16
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tokenizer.gguf.values import tokenizer_values

IDS = list(range(40, 70))
NONE = {"rope_scaling": None}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def built(path, overrides=None):
    checkpoint = aprnb.open(path)
    return build_model(checkpoint, aprnb.check(checkpoint, overrides=overrides), place("cpu", "float32"))


def written(path, tmp_path, overrides=None, **options) -> Path:
    checkpoint = aprnb.open(path)
    target = tmp_path / "out.gguf"
    write_gguf(target, checkpoint, aprnb.check(checkpoint, overrides=overrides), **options)
    return target


@pytest.mark.parametrize("name", ["pocket-qwen3", "pocket-qwen2", "llama", "llama-q4k", "qwen3-untied"])
def test_what_keeps_its_types_computes_the_same_bit_for_bit(real, tmp_path, name):
    target = written(real(name), tmp_path)
    assert torch.equal(logits(built(target)), logits(built(real(name))))


@pytest.mark.parametrize(("dtype", "limit"), [("f32", 0), ("f16", 1e-5), ("bf16", 0), ("q8_0", 1e-2), ("Q4_K", 5e-2)])
def test_other_types_stay_as_close_as_they_are_exact(real, tmp_path, dtype, limit):
    """The source is BF16. Limits are ten times the differences measured, as parts of the logits' range."""
    exact, found = (
        logits(built(real("pocket-qwen3"))),
        logits(built(written(real("pocket-qwen3"), tmp_path, dtype=dtype))),
    )
    assert (exact - found).abs().mean() <= limit * (exact.max() - exact.min())


def test_the_package_reads_what_the_reference_file_holds(fixtures_folder, tmp_path):
    """`llama-F16.gguf` was made by another program of the same source: every tensor must have its bytes."""
    target = written(fixtures_folder / "llama.apr", tmp_path, dtype="f16")
    found, reference = gguf.GGUFReader(target), gguf.GGUFReader(fixtures_folder / "gguf" / "llama-F16.gguf")
    digest = {t.name: (t.tensor_type, tuple(t.shape), hashlib.sha256(t.data).hexdigest()) for t in found.tensors}
    for tensor in reference.tensors:
        kind, shape, value = digest.pop(tensor.name)
        assert (kind, shape, value) == (
            tensor.tensor_type,
            tuple(tensor.shape),
            hashlib.sha256(tensor.data).hexdigest(),
        )
    assert digest == {}
    for key, field in reference.fields.items():
        if key in ("GGUF.kv_count", "general.file_type", "general.name", "tokenizer.ggml.add_bos_token"):
            continue
        if key in ("tokenizer.ggml.pre", "tokenizer.chat_template"):  # the `.apr` has neither; its file says llama 3
            continue
        assert found.fields[key].types == field.types, key
        mine, theirs = found.fields[key].contents(), field.contents()
        if key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):  # <unk> fillers here, [PAD…] there
            mine, theirs = mine[:827], theirs[:827]
        assert mine == theirs, key


def test_transformers_computes_the_same_from_it(real, tmp_path):
    from transformers import AutoModelForCausalLM

    written(real("pocket-qwen2"), tmp_path, dtype="f32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf", dtype=torch.float32).eval()
    expected = logits(built(real("pocket-qwen2")))
    assert (logits(model) - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())


@pytest.mark.apr
@pytest.mark.parametrize("name", ["pocket-qwen2", "pocket-qwen3"])
def test_the_real_tool_imports_it_and_gives_the_same_answers(real, tmp_path, apr_binary, sources, name):
    """Run on a GGUF file itself it answers otherwise, also on files of other makers; so it imports them first."""
    target, imported = written(real(name), tmp_path), tmp_path / "imported.apr"
    subprocess.run([apr_binary, "import", target, "-o", imported, "--offline"], capture_output=True, check=True)
    if name == "pocket-qwen3":  # the tool stamps rotation in pairs on every qwen3 that comes from GGUF
        checkpoint = aprnb.open(imported)
        tensors = [
            TensorSource(n, e.dtype, e.shape, lambda n=n: checkpoint.raw(n)) for n, e in checkpoint.tensors.items()
        ]
        write_apr(imported, {**checkpoint.metadata, "rope_type": 2}, tensors, force=True)
    for answer in json.loads((sources / name.removeprefix("pocket-") / "answers.json").read_text())[:4]:
        prompt = f"<|im_start|>user\n{answer['question']}<|im_end|>\n<|im_start|>assistant\n"
        command = [apr_binary, "run", imported, prompt, "-n", "24", "--no-gpu", "--json", "--offline"]
        said = json.loads(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)
        assert said["text"] == answer["answer"]


@pytest.mark.parametrize("name", ["pocket-qwen3", "llama"])
def test_text_has_the_same_tokens_and_conversations_the_same_form(real, tmp_path, name):
    before = aprnb.open(real(name))
    after = aprnb.open(written(real(name), tmp_path))
    family = before.architecture.model_type
    first, second = (build_tokenizer(checkpoint.metadata, family) for checkpoint in (before, after))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    assert first.tokenizer.special_tokens_map == second.tokenizer.special_tokens_map
    for text in ("Hello 12345 don't über", "Привет, мир!", "你好，世界。", "<|im_start|>user\nHi<|im_end|>there"):
        assert first.tokenizer(text)["input_ids"] == second.tokenizer(text)["input_ids"]
    assert (
        first.checkpoint_tokenizer.chat_template == second.checkpoint_tokenizer.chat_template
        or before.metadata.get("chat_template") is None
    )


def test_token_types_say_what_each_token_is(pocket_qwen3):
    values = tokenizer_values(aprnb.open(pocket_qwen3).metadata, "qwen3", 1024).values
    types = dict(zip(values["tokenizer.ggml.tokens"].value, values["tokenizer.ggml.token_type"].value, strict=True))
    assert len(types) == 1024  # all distinct, as llama.cpp asks
    assert (types["<|im_end|>"], types["!"], types["[PAD1023]"]) == (3, 1, 5)


def test_sentencepiece_merges_become_scores_that_give_them_back():
    merges = ["a b", "ab c", "▁ a"]
    vocabulary = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "c", "ab", "abc", "▁a"]
    metadata = {"tokenizer.vocabulary": vocabulary, "tokenizer.merges": merges, "tokenizer.model_type": "BPE",
                "tokenizer.bos_token_id": 1, "tokenizer.eos_token_id": 2}  # fmt: skip
    values = tokenizer_values(metadata, "llama", 12).values
    assert values["tokenizer.ggml.model"].value == "llama"
    assert values["tokenizer.ggml.token_type"].value == [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 5]
    from aprnb.tokenizer.facts import read_facts

    again = {"tokenizer.vocabulary": vocabulary, "tokenizer.model": "llama",
             "tokenizer.scores": values["tokenizer.ggml.scores"].value[:11]}  # fmt: skip
    assert read_facts(again).merges == read_facts(metadata).merges


@pytest.mark.parametrize(
    "overrides",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
        {"rope_scaling": LLAMA3, "max_position_embeddings": 131072},
        {"rope_scaling": {**LLAMA3, "factor": 32.0}, "max_position_embeddings": 131072},
    ],
    ids=["linear", "yarn", "llama 3.1", "llama 3.2"],
)
def test_scaled_rotation_goes_with_the_file(real, tmp_path, overrides):
    metadata = {k: v for k, v in aprnb.open(real("llama-q4k")).metadata.items() if k != "max_position_embeddings"}
    source = aprnb.open(real("llama-q4k"))
    tensors = [TensorSource(n, e.dtype, e.shape, lambda n=n: source.raw(n)) for n, e in source.tensors.items()]
    write_apr(tmp_path / "in.apr", metadata, tensors)
    target = written(tmp_path / "in.apr", tmp_path, overrides)
    report = aprnb.check(target)
    assert report.ok and report.architecture.rope_scaling == overrides["rope_scaling"]
    scaled = logits(built(target))
    assert torch.equal(scaled, logits(built(tmp_path / "in.apr", overrides)))
    assert not torch.equal(scaled, logits(built(tmp_path / "in.apr", NONE)))


def test_factors_of_another_kind_are_an_error_that_names_them(real, tmp_path):
    source = aprnb.open(real("llama-q4k"))
    target = written(real("llama-q4k"), tmp_path, {"rope_scaling": LLAMA3})
    data = bytearray(target.read_bytes())
    checkpoint = aprnb.open(target)
    entry = checkpoint.tensors["rope_freqs.weight"]
    at = checkpoint.contents.files[0].data_start + entry.offset
    data[at : at + 4] = np.float32(3).tobytes()
    target.write_bytes(data)
    with pytest.raises(aprnb.AprnbError, match="not those of a published Llama 3") as caught:
        aprnb.check(target)
    assert caught.value.exit_code == 5
    assert source.architecture.rope_scaling is None


REJECTIONS = {
    "an activation that GGUF has no key for": ("llama-q4k", {"hidden_act": "gelu"}, {}, "hidden_act gelu"),
    "a window that llama.cpp's llama ignores": ("mistral", {"sliding_window": 64}, {}, "sliding_window"),
    "scaling of an unknown kind": (
        "llama-q4k", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, {}, "dynamic"),
    "llama3 scaling other than the published": (
        "llama-q4k", {"rope_scaling": {**LLAMA3, "high_freq_factor": 2.0}}, {}, "not those of a published Llama 3"),
    "a type of .apr": ("llama-q4k", {}, {"dtype": "q8"}, "dtype 'q8'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTIONS)
def test_what_gguf_cannot_express_is_an_error_that_names_it(real, tmp_path, case):
    name, overrides, options, words = REJECTIONS[case]
    with pytest.raises(aprnb.AprnbError, match=words):
        written(real(name), tmp_path, overrides, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_tools_blocks_of_four_bits_become_those_of_gguf_with_equal_values(real, tmp_path):
    checkpoint = aprnb.open(real("pocket-qwen3-int4"))
    result = write_gguf(tmp_path / "x.gguf", checkpoint, aprnb.check(checkpoint))
    assert result.notes == ()
    kinds = [entry.dtype.name for entry in aprnb.open(tmp_path / "x.gguf").tensors.values()]
    assert (kinds.count("Q4_0"), kinds.count("F32")) == (22, 13)
    assert torch.equal(logits(built(tmp_path / "x.gguf")), logits(built(real("pocket-qwen3-int4"))))


def test_permuting_is_the_inverse_of_reading():
    from aprnb.architecture.weights import unpermute

    rows = np.arange(2 * 8 * 3).reshape(16, 3)
    np.testing.assert_array_equal(unpermute(permute(rows, 2), 2), rows)


def test_writing_keeps_a_few_rows_in_memory_and_reports_its_progress(tmp_path, pocket_qwen3):
    """An embedding of 262,144 × 128 in BF16 is 64 MiB, as float32 128 MiB; parts of 16 MiB pass through memory."""
    source = aprnb.open(pocket_qwen3)
    rows = 262_144
    shapes = {n: tuple(rows if size == 1024 else size for size in e.shape) for n, e in source.tensors.items()}
    shapes.pop("lm_head.weight")
    tensors = [TensorSource(n, BF16, s, lambda s=s: bytes(2 * int(np.prod(s)))) for n, s in shapes.items()]
    metadata = {k: v for k, v in source.metadata.items() if not k.startswith("tokenizer") and k != "tied_embeddings"}
    write_apr(tmp_path / "in.apr", metadata | {"vocab_size": rows}, tensors)
    checkpoint = aprnb.open(tmp_path / "in.apr")
    report = aprnb.check(checkpoint)
    seen = []
    tracemalloc.start()
    result = write_gguf(tmp_path / "x.gguf", checkpoint, report, dtype="f32", progress=lambda *now: seen.append(now))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    assert seen == sorted(seen) and seen[-1][0] <= seen[-1][1] == (tmp_path / "x.gguf").stat().st_size
    assert result.notes == ("the file has no tokenizer: the source has none that GGUF can express",)


def test_blocks_that_are_quantised_a_second_time_are_counted(real, tmp_path):
    """AprQ8 is not a GGUF type; Q4_K is copied unchanged, but not into an `.apr` of another block type."""
    said = "quantised a second time"
    q4_k, int8 = real("pocket-qwen2-q4k"), real("pocket-qwen2-int8")
    assert not any(said in warning for warning in aprnb.convert(q4_k, tmp_path / "a.gguf").warnings)
    assert any(said in warning for warning in aprnb.convert(int8, tmp_path / "b.gguf", dtype="q8").warnings)
    assert any(said in warning for warning in aprnb.convert(int8, tmp_path / "c.apr", dtype="q4").warnings)
    assert not any(said in warning for warning in aprnb.convert(int8, tmp_path / "d.apr").warnings)


def test_a_folder_for_temporary_files_that_cannot_be_used_is_named(pocket_qwen3, tmp_path, monkeypatch):
    """The check of the keys needs one; its name is none of the user's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="set TMPDIR to another one"):
        aprnb.convert(pocket_qwen3, tmp_path / "x.gguf", dtype="f16")
