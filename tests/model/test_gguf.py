"""GGUF files as models: logits, tokens, card and contract equal those of the source they were made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

import aprnb
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.codecs import encode
from aprnb.formats.dtypes import F32
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb.tokenizer.choose import build_tokenizer

SOURCES = {
    "llama-F16": "llama", "llama-Q4_0": "llama", "qwen2-F16": "qwen2", "qwen2-Q8_0": "qwen2",
    "qwen3-untied-F16": "qwen3-untied",
}  # fmt: skip
TEXTS = (
    "Hello 12345 don't I'LL über façade", "Ελληνικά γράμματα", "Привет, мир! Ёлка", "مرحبا بالعالم ١٢٣", "שלום עולם",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界。", "こんにちは世界 カタカナ", "안녕하세요 세계", "👩‍👩‍👧‍👦 🎉",
    "def f(x):\n\treturn x**2\n\n\n", "<|im_start|>user\nHi<|im_end|>there", "   a   b \t\n  \r\n x\u00a0",
)  # fmt: skip


@pytest.fixture(params=SOURCES)
def model_file(request, fixtures_folder) -> Path:
    return fixtures_folder / "gguf" / f"{request.param}.gguf"


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def test_the_architecture_is_the_sources(model_file, fixtures_folder):
    apr = {"llama-F16": "gguf-llama-f16", "llama-Q4_0": "gguf-llama-q4_0", "qwen2-F16": "gguf-qwen2-f16"}
    apr |= {"qwen2-Q8_0": "gguf-qwen2-q8_0-preserve", "qwen3-untied-F16": "gguf-qwen3-f16"}
    true = json.loads((fixtures_folder / f"{apr[model_file.stem]}.json").read_text())["true_architecture"]
    report = aprnb.check(model_file)
    assert report.ok
    assert true.items() <= report.architecture.fields().items()
    assert report.architecture.warnings == ()


@pytest.mark.parametrize("name", ["llama-F16", "qwen2-F16", "qwen3-untied-F16"])
def test_logits_equal_the_sources(fixtures_folder, sources, name):
    """Bounds as for the `.apr` imports of the same files in test_build.py."""
    reference = json.loads((sources / SOURCES[name] / "reference_logits.json").read_text())
    model, _ = aprnb.load(fixtures_folder / "gguf" / f"{name}.gguf", dtype="float32")
    found = logits(model, reference["input_ids"])
    difference = (found[-1, :16] - torch.tensor(reference["last_logits_first_16"])).abs().max()
    assert difference / (found.max() - found.min()) <= (3e-4 if name.startswith("qwen3") else 1e-4)
    assert found.argmax(-1).tolist() == reference["argmax"]


@pytest.mark.parametrize("name", ["llama-Q4_0", "qwen2-Q8_0"])
def test_quantised_files_compute_with_their_decoded_weights(fixtures_folder, name, tmp_path):
    checkpoint = aprnb.open(fixtures_folder / "gguf" / f"{name}.gguf")
    tensors = [
        TensorSource(key, F32, entry.shape, lambda key=key: encode(checkpoint[key], F32))
        for key, entry in checkpoint.tensors.items()
    ]
    write_apr(tmp_path / "f32.apr", checkpoint.metadata, tensors)
    decoded = build_model(aprnb.open(tmp_path / "f32.apr"), aprnb.check(tmp_path / "f32.apr"), place("cpu", "float32"))
    found = build_model(checkpoint, aprnb.check(checkpoint), place("cpu", "float32"))
    ids = list(range(40, 60))
    assert torch.equal(logits(found, ids), logits(decoded, ids))


def test_text_gets_the_tokens_of_the_source(model_file, sources):
    checkpoint = aprnb.open(model_file)
    choice = build_tokenizer(checkpoint.metadata, checkpoint.architecture.model_type)
    published = Tokenizer.from_file(str(sources / SOURCES[model_file.stem] / "tokenizer.json"))
    for text in TEXTS:
        assert choice.tokenizer(text)["input_ids"] == published.encode(text).ids
    assert choice.tokenizer.eos_token == "<|im_end|>"
    assert choice.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).startswith(
        "<|im_start|>user\nHi<|im_end|>"
    )


def test_the_card_of_a_gguf_file_is_like_any_other(model_file):
    report = aprnb.inspect(model_file)
    assert report.to_json()["file"]["format"] == "gguf"
    assert "blk.0.attn_q.weight" in report.to_html()
