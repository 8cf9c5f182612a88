"""Folders without a tokenizer.json: their slow files give the ids that `transformers`, `tokenizers` and SentencePiece
give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import aprnb
from aprnb.formats.huggingface.metadata import folder_metadata
from aprnb.formats.huggingface.sentencepiece import read_sentencepiece
from aprnb.tokenizer.choose import build_tokenizer
from aprnb_tests.safetensors_bytes import folder_of
from aprnb_tests.slow_tokenizers import (
    BPE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    field,
    pieces_of,
    sentencepiece_model,
    write_vocabulary,
)

TEXTS = [
    "Hello world 12345 don't I'LL", "Привет, мир! 2024", "你好，世界。", " two  spaces\n\n\ttab ", "x=1;y+=2 //z_z",
    "über façade 🎉👩‍👧", "١٢٣ नमस्ते 안녕 สวัสดี", "HTTPServer camelCase", "", "é e\u0301 \u212b", "   ", "\n\n\n a",
    "▁x ▁▁y",
    "<|im_start|>user\nhi <|im_end|> there<|endoftext|>x", "<s>hi</s> there<bos>x<eos>",
]  # fmt: skip
NAMED = {"eos_token": "<|im_end|>"} | dict.fromkeys(("pad_token", "bos_token", "unk_token"), "<|endoftext|>")
FLAGS = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}


def ours(folder: Path, model_type: str) -> Any:
    config = json.loads((folder / "config.json").read_text())
    metadata, warnings = folder_metadata(folder, {}, {})
    assert warnings == []
    assert metadata["hf_config"] == config
    return build_tokenizer({**metadata, "architecture": model_type}, model_type).tokenizer


def slow_folder(folder: Path, model_type: str, settings: dict[str, Any] | None = None, **files: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 200_000}))
    for name, content in {**({"tokenizer_config.json": settings} if settings else {}), **files}.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    return folder


def same_as_transformers(folder: Path, model_type: str) -> None:
    from transformers import AutoTokenizer

    theirs, tokenizer = AutoTokenizer.from_pretrained(folder), ours(folder, model_type)
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.encode(text), text
        ids = theirs.encode(text)
        assert tokenizer.decode(ids) == theirs.decode(ids)
    for name in ("eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, name) == getattr(theirs, name)


def in_decoder(sources: Path) -> dict[str, Any]:
    ids = json.loads((sources / "qwen3" / "tokenizer.json").read_text())["added_tokens"]
    return {str(token["id"]): {**FLAGS, "content": token["content"]} for token in ids}


@pytest.mark.parametrize(
    ("model_type", "kind"), [("qwen2", "Qwen2"), ("qwen3", "Qwen2"), ("gpt2", "GPT2"), ("starcoder2", "GPT2")]
)
@pytest.mark.parametrize("form", ["added_tokens_decoder", "added_tokens.json", "special_tokens_map.json"])
def test_vocabulary_and_merges_are_read_as_transformers_reads_them(sources, tmp_path, model_type, kind, form):
    parsed = json.loads((sources / "qwen3" / "tokenizer.json").read_text())
    settings: dict[str, Any] = {"tokenizer_class": f"{kind}Tokenizer", **NAMED}
    files: dict[str, Any] = {}
    if form == "added_tokens_decoder":
        settings["added_tokens_decoder"] = in_decoder(sources)
    else:
        files["added_tokens.json"] = {token["content"]: token["id"] for token in parsed["added_tokens"]}
    if form == "special_tokens_map.json":
        settings = {"tokenizer_class": f"{kind}TokenizerFast"}
        files[form] = {**NAMED, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    folder = slow_folder(tmp_path / "slow", model_type, settings, **files)
    write_vocabulary(folder, parsed)
    same_as_transformers(folder, model_type)


@pytest.mark.parametrize("add", [{"add_prefix_space": True}, {"add_bos_token": True}, {"add_eos_token": True}])
def test_settings_that_change_ids_are_applied(sources, tmp_path, add):
    settings = {"tokenizer_class": "GPT2Tokenizer", **NAMED, **add, "added_tokens_decoder": in_decoder(sources)}
    folder = slow_folder(tmp_path / "slow", "gpt2", settings)
    write_vocabulary(folder, json.loads((sources / "qwen3" / "tokenizer.json").read_text()))
    same_as_transformers(folder, "gpt2")


@pytest.mark.real
def test_a_published_vocabulary_gives_the_published_ids(real_models, tmp_path):
    published = real_models / "tokenizers" / "qwen3"
    settings = json.loads((published / "tokenizer_config.json").read_text())
    folder = slow_folder(tmp_path / "slow", "qwen3", settings)
    write_vocabulary(folder, json.loads((published / "tokenizer.json").read_text()))
    theirs, tokenizer = Tokenizer.from_file(str(published / "tokenizer.json")), ours(folder, "qwen3")
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.encode(text).ids


Pieces = list[tuple[str, float, int]]


def sentencepiece_folder(folder: Path, pieces: Pieces, model_type: str, add_space: bool = True) -> Path:
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if not add_space:
        settings = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    slow_folder(folder, model_type, {**settings, "add_bos_token": True})
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces, add_space=add_space))
    return folder


@pytest.fixture
def recorded(repository) -> dict[str, Any]:
    """A model that SentencePiece trained, and what SentencePiece encodes with it."""
    path = repository / "tests" / "data" / "tokenizers" / "sentencepiece-bpe.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    found["pieces"] = list(zip(found["vocabulary"], found["scores"], found["token_type"], strict=True))
    return found


def test_a_sentencepiece_model_gives_the_ids_that_sentencepiece_gives(recorded, tmp_path):
    tokenizer = ours(sentencepiece_folder(tmp_path / "slow", recorded["pieces"], "mistral"), "mistral")
    for line in recorded["encodings"]:
        assert tokenizer.encode(line["text"], add_special_tokens=False) == line["ids"], line["text"]
        assert tokenizer.encode(line["text"]) == [1, *line["ids"]]


@pytest.mark.real
@pytest.mark.parametrize(("name", "add_space"), [("llama2", True), ("gemma3", False)])
def test_published_sentencepiece_models_give_the_published_ids(real_models, tmp_path, name, add_space):
    path = real_models / "tokenizers" / name / "tokenizer.json"
    parsed = json.loads(path.read_text("utf-8"))
    model_type = "mistral" if name == "llama2" else "gemma3_text"
    folder = sentencepiece_folder(tmp_path / "slow", pieces_of(parsed), model_type, add_space)
    theirs, tokenizer = Tokenizer.from_file(str(path)), ours(folder, model_type)
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False).ids


def test_legacy_false_adds_the_space_to_the_first_text_only(recorded, tmp_path):
    """As `TokenizersBackend` of transformers reads Phi-3's folder (seen with sentencepiece 0.2.3)."""
    folder = sentencepiece_folder(tmp_path / "slow", recorded["pieces"], "phi3")
    assert "".join(ours(folder, "phi3").tokenize("hi</s>hi")) == "▁hi</s>▁hi"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": False}))
    assert "".join(ours(folder, "phi3").tokenize("hi</s>hi")) == "▁hi</s>hi"


@pytest.mark.parametrize("legacy", [True, False])
def test_add_prefix_space_false_adds_no_space(recorded, tmp_path, legacy):
    """As `LlamaConverter` of transformers: neither normalizer nor pre-tokenizer then prepends ▁."""
    folder = sentencepiece_folder(tmp_path / "slow", recorded["pieces"], "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    changed = {**settings, "legacy": legacy, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(changed))
    tokenizer = ours(folder, "llama")
    assert "".join(tokenizer.tokenize("hi</s>hi there")) == "hi</s>hi▁there"
    assert tokenizer.decode(tokenizer.encode(" hi", add_special_tokens=False)) == " hi"


@pytest.mark.parametrize(("stated", "added"), [({}, True), ({"add_bos_token": False}, False)])
def test_bos_is_added_unless_the_settings_say_no(recorded, tmp_path, stated, added):
    """The documented default of LlamaTokenizer and GemmaTokenizer, and llama.cpp's for SentencePiece."""
    folder = slow_folder(tmp_path / "slow", "llama", {"tokenizer_class": "LlamaTokenizer", **stated})
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(recorded["pieces"]))
    assert (ours(folder, "llama").encode("hi")[0] == 1) == added


def test_every_conversion_carries_a_slow_tokenizer(pocket_qwen3, sources, tmp_path):
    from transformers import AutoTokenizer

    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "folder")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_vocabulary(folder, json.loads((folder / "tokenizer.json").read_text()))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": in_decoder(sources)}))
    (folder / "tokenizer.json").unlink()
    expected = [AutoTokenizer.from_pretrained(folder).encode(text) for text in TEXTS]
    for source, target in (("folder", "out"), ("folder", "x.apr"), ("x.apr", "back"), ("x.apr", "x.gguf")):
        warnings = aprnb.convert(tmp_path / source, tmp_path / target).warnings
        assert not any("tokenizer of" in warning or "no tokenizer" in warning for warning in warnings)
    for target in ("out", "back"):
        assert [AutoTokenizer.from_pretrained(tmp_path / target).encode(text) for text in TEXTS] == expected
    assert aprnb.inspect(tmp_path / "x.apr").tokenizer["problem"] is None
    assert aprnb.inspect(folder).tokenizer["problem"] is None


ONE_OF_UNIGRAM = sentencepiece_model([("<unk>", 0.0, UNKNOWN), ("a", -1.0, NORMAL)], kind=UNIGRAM)
LOST = {
    "vocab.txt": (b"[PAD]\n[UNK]\n", "vocab.txt alone is not supported"),
    "tekken.json": (b"{}", "tekken.json alone is not supported"),
    "merges.txt": (b"a b\n", "merges.txt alone is not supported"),
    "tokenizer.model": (ONE_OF_UNIGRAM, "a Unigram model"),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("target", ["x.apr", "x.gguf", "out"])
def test_a_tokenizer_that_is_not_supported_is_named(pocket_qwen3, sources, tmp_path, name, target):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "folder")
    (folder / "tokenizer.json").unlink()
    content, message = LOST[name]
    (folder / name).write_bytes(content)
    warnings = aprnb.convert(folder, tmp_path / target).warnings
    assert any(message in warning and "the tokenizer is lost" in warning for warning in warnings)


def test_a_class_that_is_not_supported_is_named(sources, tmp_path):
    folder = slow_folder(tmp_path / "slow", "qwen3", {"tokenizer_class": "CLIPTokenizer"})
    write_vocabulary(folder, json.loads((sources / "qwen3" / "tokenizer.json").read_text()))
    _, warnings = folder_metadata(folder, {}, {})
    assert any("'CLIPTokenizer', which is not supported: the tokenizer is lost" in warning for warning in warnings)


GOOD = sentencepiece_model([("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("a", -1.0, NORMAL), ("aa", 0.0, NORMAL)])
BROKEN = {
    "empty": b"",
    "ranks of tiktoken": b"IQ== 0\nIg== 1\n",
    "cut": GOOD[:-3],
    "a length beyond the end": field(1, b"")[:1] + b"\xff" * 8 + b"\x01",
    "a varint without end": b"\x08" + b"\xff" * 40,
    "a group": b"\x0b" * 20,
    "a piece that is a number": field(1, 7),
    "a piece that is not UTF-8": field(1, field(1, b"\xff\xfe") + field(2, 0.0)) + field(2, field(3, BPE)),
    "a long piece": field(1, field(1, b"a" * 5000) + field(2, 0.0)),
    "another normalisation": GOOD + field(3, field(2, b"map")),
    "trimmed spaces": GOOD + field(3, field(4, 1)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sentencepiece_model_is_rejected_with_its_name(tmp_path, name):
    slow_folder(tmp_path / "slow", "llama", {"tokenizer_class": "LlamaTokenizer"})
    (tmp_path / "slow" / "tokenizer.model").write_bytes(BROKEN[name])
    _, warnings = folder_metadata(tmp_path / "slow", {}, {})
    assert any("tokenizer.model" in warning and "the tokenizer is lost" in warning for warning in warnings)


def test_pieces_that_split_in_too_many_ways_are_rejected(tmp_path):
    """2,000 runs of one letter have two million splits."""
    pieces = [("a" * number, -float(number), NORMAL) for number in range(1, 1000)]
    pieces += [("b" * number, -float(number), NORMAL) for number in range(1, 1000)]
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    with pytest.raises(aprnb.errors.CheckpointError, match="merges"):
        read_sentencepiece(tmp_path / "tokenizer.model").merges()
