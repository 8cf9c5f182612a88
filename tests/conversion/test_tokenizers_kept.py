"""Tokenizers of every kind come out of a conversion as they went in, with more rows in the embedding than tokens."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import aprnb
from aprnb.formats.huggingface.tokenizer_json import reassembled, tokenizer_metadata
from aprnb_tests import families

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
PROBES = ("What is two plus one?", "  naïve ☕ 你好", "a\nb\tc", "<s>Spell cow.</s>")


def texts(repository):
    lines = (repository / "notebooks" / "pocket-corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [" ".join(map(str, json.loads(line).values())) for line in lines[:200]]


def sentencepiece(corpus) -> Tokenizer:
    """As Llama 2, Mistral and Gemma have it: `<unk>`, `<s>` and bytes are in the vocabulary and are added tokens."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    made.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL + bytes_))
    return made


def unigram(corpus) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>"))
    return made


def wordpiece(corpus) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL))
    return made


def byte_level(corpus) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL))
    return made


@pytest.fixture(params=[sentencepiece, unigram, wordpiece, byte_level], ids=lambda make: make.__name__)
def source(request, repository, tmp_path):
    """A folder whose vocabulary has rows without a token."""
    folder = tmp_path / "hf"
    families.saved("qwen3", folder, vocabulary=1024, spread=0.0)
    request.param(texts(repository)).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}')
    return folder, Tokenizer.from_file(str(folder / "tokenizer.json"))


def same(tokenizer, expected: Tokenizer) -> None:
    for text in PROBES:
        ids = expected.encode(text).ids
        assert tokenizer(text).input_ids == ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == expected.decode(ids)


def test_an_apr_a_folder_and_a_tuned_model_split_text_as_the_source(source, repository, tmp_path):
    folder, expected = source
    converted = aprnb.convert(folder, tmp_path / "x.apr").path
    same(aprnb.load(converted)[1], expected)
    same(aprnb.load(aprnb.convert(converted, tmp_path / "again").path)[1], expected)
    rows = repository / "notebooks" / "ask-the-cow.jsonl"
    tuned = aprnb.finetune(
        converted, data=rows, output=str(tmp_path / "t.apr"), method="lora", max_steps=1, learning_rate=1e-2,
        max_seq_len=64, chat_template="chatml",
    )  # fmt: skip
    same(aprnb.load(tuned.output)[1], expected)


def test_a_sidecar_tokenizer_of_the_base_is_kept_in_the_tuned_model(source, repository, tmp_path):
    folder, expected = source
    parsed = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    bare = aprnb.convert(folder, tmp_path / "bare.apr").path
    bare.with_name("tokenizer.json").write_text(json.dumps(parsed))
    bare.with_name("tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text())
    (tmp_path / "out").mkdir()  # a folder without a tokenizer.json
    run = aprnb.finetune(
        bare, data=repository / "notebooks" / "ask-the-cow.jsonl", output=str(tmp_path / "out" / "t.apr"),
        method="lora", max_steps=1, learning_rate=1e-2, max_seq_len=64, chat_template="chatml",
    )  # fmt: skip
    same(aprnb.load(run.output)[1], expected)


def test_merges_of_pieces_with_spaces_are_kept_as_pairs():
    model = {"type": "BPE", "vocab": {"a ": 0, "b": 1, "a b": 2}, "merges": [["a ", "b"]]}
    parsed = {"model": model, "added_tokens": []}
    whole = reassembled(tokenizer_metadata(parsed, {}, "x"))
    assert whole is not None
    assert whole["model"]["merges"] == [["a ", "b"]]
    assert whole["model"]["vocab"] == model["vocab"]


def test_only_merges_with_spaces_are_kept_a_second_time():
    """All pairs of Gemma's 514,847 merges, of which 406 have spaces, exceeded the bound on a file's values."""
    vocab = {"a ": 0, "b": 1, "a b": 2, "bb": 3}
    model = {"type": "BPE", "vocab": vocab, "merges": [["b", "b"], ["a ", "b"]]}
    metadata = tokenizer_metadata({"model": model, "added_tokens": []}, {}, "x")
    assert "merges" not in metadata["hf_tokenizer"]["model"]
    assert metadata["hf_tokenizer"]["spaced_merges"] == [[1, "a ", "b"]]
    whole = reassembled(metadata)
    assert whole is not None
    assert whole["model"]["merges"] == model["merges"]


def test_spaced_merges_that_contradict_the_list_make_no_tokenizer():
    model = {"type": "BPE", "vocab": {"a ": 0, "b": 1, "a b": 2}, "merges": [["a ", "b"]]}
    metadata = tokenizer_metadata({"model": model, "added_tokens": []}, {}, "x")
    for entry in ([0, "x ", "b"], [7, "a ", "b"], ["0", "a ", "b"], [], "a"):
        metadata["hf_tokenizer"]["spaced_merges"] = [entry]
        assert reassembled(metadata) is None


def test_an_unknown_token_outside_the_vocabulary_is_an_aprnb_error(tmp_path, repository):
    folder = tmp_path / "hf"
    families.saved("qwen3", folder, vocabulary=1024, spread=0.0)
    parsed = json.loads(byte_level(texts(repository)).to_str())
    parsed["pre_tokenizer"], parsed["model"]["unk_token"] = None, "<nobody>"
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    with pytest.raises(aprnb.errors.TokenizerError, match="is not a valid tokenizer.*<nobody>"):
        aprnb.load(folder)


def test_false_statements_about_the_vocabularys_ids_give_no_tokenizer(tmp_path, repository):
    folder = tmp_path / "hf"
    families.saved("qwen3", folder, vocabulary=1024, spread=0.0)
    sentencepiece(texts(repository)).save(str(folder / "tokenizer.json"))
    metadata = dict(aprnb.open(folder).metadata)
    for ids in ([10**9], [-1], ["0"], [True]):
        assert reassembled({**metadata, "hf_tokenizer": {**metadata["hf_tokenizer"], "ids_in_vocabulary": ids}}) is None
