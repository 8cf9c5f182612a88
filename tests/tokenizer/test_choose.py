"""Tokenizers from metadata, compared with the original tokenizers of the models."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import aprnb
from aprnb.errors import MissingExtra, TokenizerError
from aprnb.formats.huggingface.metadata import folder_metadata
from aprnb.tokenizer.choose import build_tokenizer, check_vocabulary
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.fast_tokenizer import byte_level_tokenizer
from aprnb.tokenizer.rules import PRE_TOKENIZERS

TEXTS = {
    "latin": "Hello 12345 don't I'LL über façade",
    "greek": "Ελληνικά γράμματα",
    "cyrillic": "Привет, мир! Ёлка",
    "arabic": "مرحبا بالعالم ١٢٣",
    "hebrew": "שלום עולם",
    "devanagari": "नमस्ते दुनिया",
    "thai": "สวัสดีชาวโลก",
    "chinese": "你好，世界。",
    "japanese": "こんにちは世界 カタカナ",
    "korean": "안녕하세요 세계",
    "emoji": "👩‍👩‍👧‍👦 🎉🏳️‍🌈",
    "code": "def f(x):\n\treturn x**2  # ok\n\n\nfoo_bar()",
    "white space": "   a   b \t\n  \r\n x\u00a0\u3000y ",
    "composed and decomposed": "e\u0301 é A\u030a Å",
    "added tokens inside": "<|im_start|>user\nHi<|im_end|>there<|endoftext|><|im_end",
    "fillers are text": "<unk> [PAD900]",
    "control characters": "\x00\x01\x1b[31m",
}


@pytest.fixture(scope="module")
def metadata(pocket_qwen3: Path) -> dict[str, Any]:
    return dict(aprnb.open(pocket_qwen3).metadata)


@pytest.fixture(scope="module")
def tokenizer(metadata: dict[str, Any]) -> Any:
    return build_tokenizer(metadata, "qwen3").tokenizer


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_the_file_s_tokenizer_equals_the_published_one_on_every_script(tokenizer, sources, text):
    published = Tokenizer.from_file(str(sources / "qwen3" / "tokenizer.json")).encode(text).ids
    assert tokenizer(text)["input_ids"] == published
    assert tokenizer.decode(published) == text


@pytest.mark.parametrize("name", ["pocket-qwen3", "pocket-qwen2"])
def test_prompts_get_the_ids_that_the_model_was_asked_with(real, sources, name):
    family = name.removeprefix("pocket-")
    tokenizer = build_tokenizer(aprnb.open(real(name)).metadata, family).tokenizer
    for answer in json.loads((sources / family / "answers.json").read_text()):
        prompt = f"<|im_start|>user\n{answer['question']}<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer(prompt)["input_ids"] == answer["prompt_ids"]
        assert tokenizer.decode(answer["answer_ids"], skip_special_tokens=True) == answer["answer"]


def test_fillers_of_the_padded_vocabulary_are_not_tokens(tokenizer):
    assert len(tokenizer) == 827
    assert "<unk>" not in tokenizer.get_vocab()


def test_a_gguf_import_without_token_types_has_the_same_tokens(real, tokenizer):
    found = build_tokenizer(aprnb.open(real("gguf-qwen2-q8_0-preserve")).metadata, "qwen2").tokenizer
    assert found.get_vocab() == tokenizer.get_vocab()


def test_special_ids_come_from_the_file(tokenizer):
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (826, 824)


def test_bos_is_put_in_front_only_where_the_file_says_so(metadata):
    plain = build_tokenizer(metadata, "qwen3").tokenizer("a")["input_ids"]
    asked = build_tokenizer({**metadata, "tokenizer.add_bos_token": True}, "qwen3").tokenizer("a")["input_ids"]
    assert asked == [824, *plain]


def test_a_special_id_outside_the_vocabulary_is_reported_and_not_used(metadata):
    choice = build_tokenizer({**metadata, "tokenizer.eos_token_id": 5000}, "qwen3")
    assert choice.tokenizer.eos_token is None
    assert "tokenizer.eos_token_id is 5000" in choice.warnings[0]


def test_a_vocabulary_of_152_thousand_tokens_builds_fast_and_is_normalised_as_published_ones_are(metadata):
    published = padded_vocabulary(metadata, 151643)
    start = time.process_time()
    normalising = build_tokenizer(published, "qwen3")
    assert time.process_time() - start < 4  # about 1 s of processor time where nothing else runs
    decomposed, composed = "e\u0301", "é"
    assert normalising.tokenizer(decomposed)["input_ids"] == normalising.tokenizer(composed)["input_ids"]
    assert any("NFC" in note and "151643" in note for note in normalising.assumptions)
    literal = build_tokenizer(metadata, "qwen3")
    assert literal.tokenizer(decomposed)["input_ids"] != literal.tokenizer(composed)["input_ids"]
    assert any("not normalised" in note for note in literal.assumptions)


def padded_vocabulary(metadata: dict[str, Any], end_of_text: int) -> dict[str, Any]:
    """The pocket vocabulary, filled up with merges of made-up words until <|endoftext|> has the given id."""
    words, merges = metadata["tokenizer.vocabulary"][:824], list(metadata["tokenizer.merges"])
    known = set(words)
    letters = [word for word in words if word.isascii() and word.isalpha()]
    for left in [word for word in words if word.isalpha()]:
        for right in letters:
            if len(words) == end_of_text:
                break
            if left + right not in known:
                known.add(left + right)
                words.append(left + right)
                merges.append(f"{left} {right}")
    assert len(words) == end_of_text
    return {
        "tokenizer.vocabulary": [*words, "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "tokenizer.merges": merges,
        "tokenizer.model_type": "BPE",
        "tokenizer.eos_token_id": end_of_text + 2,
    }


@pytest.mark.parametrize("name", ["llama-q4k", "gguf-llama-q4_0-preserve"])
def test_llama_without_a_pre_tokenizer_lists_what_was_assumed(real, name):
    choice = build_tokenizer(aprnb.open(real(name)).metadata, "llama")
    assert choice.assumptions[0].startswith("tokenizer: text is split as llama-bpe does")


def test_a_sidecar_file_with_the_same_vocabulary_replaces_an_assumption(real, sources):
    choice = build_tokenizer(aprnb.open(real("llama-q4k")).metadata, "llama", sources / "llama")
    assert choice.source == "tokenizer.json next to the file (its vocabulary is the file's)"
    assert choice.assumptions == ()
    assert len(choice.tokenizer("12345")["input_ids"]) == 5  # the source splits digits one by one, llama-bpe by threes


def test_a_sidecar_file_with_another_vocabulary_is_named_and_not_used(real, sources, tmp_path):
    other = json.loads((sources / "llama" / "tokenizer.json").read_text())
    other["added_tokens"] = other["added_tokens"][:2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    choice = build_tokenizer(aprnb.open(real("llama-q4k")).metadata, "llama", tmp_path)
    assert choice.source.startswith("metadata")
    assert "another vocabulary" in choice.warnings[-1]


def test_a_sidecar_file_that_is_not_needed_is_not_read(metadata, tmp_path):
    (tmp_path / "tokenizer.json").write_text("not a tokenizer")
    assert build_tokenizer(metadata, "qwen3", tmp_path).source.startswith("metadata")


def test_a_file_without_a_tokenizer_uses_the_sidecar_file(real, sources, tmp_path):
    checkpoint = tmp_path / "tuned.apr"
    shutil.copy(sources / "qwen3" / "tokenizer.json", tmp_path / "tuned.tokenizer.json")
    shutil.copy(sources / "qwen3" / "tokenizer_config.json", tmp_path)
    choice = build_tokenizer(aprnb.open(real("pocket-qwen3-convert-q4k")).metadata, "qwen3", checkpoint)
    assert choice.source == "tuned.tokenizer.json next to the file"
    assert choice.tokenizer.eos_token == "<|im_end|>"
    assert choice.template_source == "tokenizer_config.json next to the file"


def test_a_file_without_any_tokenizer_is_an_error_with_an_action(real, tmp_path):
    with pytest.raises(TokenizerError, match="has no tokenizer") as caught:
        build_tokenizer(aprnb.open(real("pocket-qwen3-convert-q4k")).metadata, "qwen3", tmp_path)
    assert "tokenizer.json" in str(caught.value.action)


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, "\x00"])
def test_a_malformed_sidecar_file_is_an_error_that_names_it(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json (is|has) (n|UTF-16)"):
        build_tokenizer({}, "qwen3", tmp_path)


def test_a_vocabulary_larger_than_the_embedding_is_rejected(tokenizer):
    with pytest.raises(TokenizerError, match=r"highest id is 826 .*embedding has 826 rows"):
        check_vocabulary(tokenizer, 826)


def test_unused_rows_of_the_embedding_are_counted(tokenizer):
    assert check_vocabulary(tokenizer, 827) is None
    assert check_vocabulary(tokenizer, 1024) == "197 of the embedding's 1,024 rows have no token"


def test_an_unknown_pre_tokenizer_is_an_error_that_names_it(metadata):
    with pytest.raises(TokenizerError, match="pre-tokenizer 'no-such' is not supported"):
        build_tokenizer({**metadata, "tokenizer.pre_type": "no-such"}, "qwen3")


@pytest.mark.parametrize("name", sorted(set(PRE_TOKENIZERS.values())))
def test_every_known_pre_tokenizer_keeps_text_whole(metadata, name):
    from aprnb.tokenizer.facts import read_facts

    built = byte_level_tokenizer(read_facts(metadata), name, compose=False)
    for text in TEXTS.values():
        assert built.decode(built.encode(text).ids, skip_special_tokens=False) == text


_DATA = Path(__file__).parent.parent / "data" / "tokenizers"
SENTENCEPIECE = json.loads((_DATA / "sentencepiece-bpe.json").read_text())
"""A vocabulary that sentencepiece 0.2 trained, with its scores, types, and what it makes of some texts."""


def sentencepiece_metadata(**more: Any) -> dict[str, Any]:
    return {
        "tokenizer.vocabulary": SENTENCEPIECE["vocabulary"],
        "tokenizer.scores": SENTENCEPIECE["scores"],
        "tokenizer.model": "llama",
        "tokenizer.bos_token_id": 1,
        "tokenizer.eos_token_id": 2,
        **more,
    }


@pytest.mark.parametrize("more", [{}, {"tokenizer.token_type": SENTENCEPIECE["token_type"]}], ids=["bare", "typed"])
def test_scores_give_the_ids_that_sentencepiece_itself_gives(more):
    choice = build_tokenizer(sentencepiece_metadata(**more), "llama")
    for encoding in SENTENCEPIECE["encodings"]:
        ids = choice.tokenizer(encoding["text"], add_special_tokens=False)["input_ids"]
        assert ids == encoding["ids"]
        assert choice.tokenizer.decode(ids) == encoding["text"]
    assert any("a space is added before" in note for note in choice.assumptions)


def test_a_file_that_states_it_gets_no_space_in_front():
    said = build_tokenizer(sentencepiece_metadata(**{"tokenizer.add_space_prefix": False}), "llama")
    silent = build_tokenizer(sentencepiece_metadata(), "llama")
    text = SENTENCEPIECE["encodings"][0]["text"]
    assert said.tokenizer(" " + text)["input_ids"] == silent.tokenizer(text)["input_ids"]
    assert said.tokenizer.decode(said.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert not any("a space is added before" in note for note in said.assumptions)


def test_unigram_is_an_error_that_names_it():
    scores = [score - 0.5 for score in SENTENCEPIECE["scores"]]
    with pytest.raises(TokenizerError, match="kind 'unigram'"):
        build_tokenizer(sentencepiece_metadata(**{"tokenizer.scores": scores}), "llama")


HOSTILE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a million empty merges": lambda m: {"tokenizer.merges": [""] * 1_000_000},
    "merges of nothing": lambda m: {"tokenizer.merges": ["a  b"]},
    "a merge without its token": lambda m: {"tokenizer.merges": [*m["tokenizer.merges"], "zz qq"]},
    "merges that are no list": lambda m: {"tokenizer.merges": {"a": "b"}},
    "a number in the vocabulary": lambda m: {"tokenizer.vocabulary": [*m["tokenizer.vocabulary"], 7]},
    "a token of a megabyte": lambda m: {"tokenizer.vocabulary": [*m["tokenizer.vocabulary"], "a" * 1_000_000]},
    "a vocabulary that is text": lambda m: {"tokenizer.vocabulary": "abc"},
    "too many added tokens": lambda m: {
        "tokenizer.vocabulary": [*m["tokenizer.vocabulary"], *(f"<{at}>" for at in range(100_000))]
    },
    "token types of another length": lambda m: {"tokenizer.token_type": [1]},
    "no merges": lambda m: {"tokenizer.merges": []},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_malicious_tokenizer_metadata_ends_in_a_short_error_and_a_card(metadata, change):
    hostile = {**metadata, **change(metadata)}
    with pytest.raises(TokenizerError) as caught:
        build_tokenizer(hostile, "qwen3")
    assert len(str(caught.value)) < 1000
    assert describe_tokenizer(hostile)["problem"]


def test_tokens_with_control_characters_neither_crash_nor_change_other_text(metadata, tokenizer):
    names = ["\x1b[31m", "\n", "\u202e", "</script>"]
    hostile = {**metadata, "tokenizer.vocabulary": [*metadata["tokenizer.vocabulary"][:827], *names]}
    found = build_tokenizer(hostile, "qwen3").tokenizer
    assert found("Spell cow.")["input_ids"] == tokenizer("Spell cow.")["input_ids"]


def test_the_card_describes_the_tokenizer(metadata):
    described = describe_tokenizer(metadata)
    assert described == {
        "kind": "byte-level BPE",
        "vocab_size": 1024,
        "used": 827,
        "added": 3,
        "merges": 568,
        "bos": {"id": 824, "token": "<|endoftext|>"},
        "eos": {"id": 826, "token": "<|im_end|>"},
        "pre_tokenizer": {"name": "qwen2", "source": "rule of the qwen3 family"},
        "problem": None,
        "warnings": [],
        "chat_template": None,
    }


def test_the_card_says_where_the_template_is_and_when_there_is_no_tokenizer(real):
    metadata = aprnb.open(real("gguf-qwen2-q8_0-preserve")).metadata
    assert describe_tokenizer(metadata)["chat_template"] == {"source": "metadata chat_template", "characters": 198}
    assert describe_tokenizer({})["problem"] == "the file has no tokenizer"


def test_a_special_token_that_the_source_leaves_out_is_neither_shown_nor_used(sources, tmp_path):
    """config.json may name an id for a token that tokenizer_config.json does not have, as published Qwen folders do."""
    folder = tmp_path / "hf"
    shutil.copytree(sources / "qwen2", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": None}))
    metadata, _ = folder_metadata(folder, {}, {})
    metadata["tokenizer.bos_token_id"] = 0
    assert build_tokenizer(metadata, "qwen2").tokenizer.bos_token is None
    assert describe_tokenizer(metadata, "qwen2")["bos"] is None


def test_a_missing_tokenizers_library_is_an_error_that_says_what_to_install(metadata, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "aprnb.tokenizer.fast_tokenizer")
    with pytest.raises(MissingExtra, match=r"aprnb\[train\]"):
        build_tokenizer(metadata, "qwen3")


def test_zephyr_warns_where_its_marks_are_plain_text(pocket_qwen3):
    """The marks are no tokens of the pocket model; where they are, nothing is said."""
    metadata = aprnb.open(pocket_qwen3).metadata
    (warning,) = build_tokenizer(metadata, "qwen3", chat_template="zephyr").warnings
    assert "template zephyr writes <|user|>, <|assistant|> as plain text" in warning
    vocabulary = list(metadata["tokenizer.vocabulary"])
    vocabulary[-2:] = ["<|user|>", "<|assistant|>"]
    known = {key: value for key, value in metadata.items() if key != "hf_tokenizer"}
    known["tokenizer.vocabulary"] = vocabulary
    assert not any("plain text" in text for text in build_tokenizer(known, "qwen3", chat_template="zephyr").warnings)
