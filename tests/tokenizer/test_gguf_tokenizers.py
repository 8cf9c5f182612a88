"""Tokenizers on their way to GGUF: what is written gives the source's own tokens, or is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import aprnb
from aprnb.formats.gguf.metadata import apr_metadata
from aprnb.formats.huggingface.tokenizer_json import special_ids, tokenizer_metadata
from aprnb.formats.huggingface.tokenizer_warnings import missing_tokens
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tokenizer.gguf.values import tokenizer_values

TEXTS = ("Hello 12345 don't I'LL über", "Привет, мир!", "你好，世界。", "   a   b ", "def f(x):\n\treturn 1", "a", "")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def metadata_of(tokenizer: Tokenizer, **special: str) -> dict[str, Any]:
    """What a folder with this tokenizer.json has as metadata."""
    parsed = json.loads(tokenizer.to_str())
    return tokenizer_metadata(parsed, {}, "tokenizer.json") | special_ids(parsed, {}, special)


def read_back(metadata: dict[str, Any], rows: int) -> Any:
    """The tokenizer that a GGUF file with these values has."""
    return build_tokenizer(apr_metadata(tokenizer_values(metadata, "llama", rows).values, {})[0], "llama")


MERGES = [("▁", "a"), ("a", "b"), ("▁a", "b"), ("▁", "ab")]
"""Every way to make each piece, as conversions of SentencePiece models list them."""


def pieces(prepend: bool, bos: bool, merges: list[tuple[str, str]] | None = None) -> Tokenizer:
    """A tiny SentencePiece-like BPE, as llama's (with a space in front) or gemma's (without)."""
    bytes_ = [f"<0x{code:02X}>" for code in range(256)]
    vocabulary = ["<unk>", "<s>", "</s>", *bytes_, "▁", *LETTERS, "▁a", "ab", "▁ab"]
    model = models.BPE(
        vocab={text: at for at, text in enumerate(vocabulary)}, merges=merges or MERGES,
        unk_token="<unk>", byte_fallback=True, fuse_unk=True,
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁")] * prepend + [normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("prepend", [True, False])
def test_sentencepiece_keeps_the_space_in_front_and_bos(prepend, bos):
    source = pieces(prepend, bos)
    choice = read_back(metadata_of(source, bos_token="<s>", eos_token="</s>", unk_token="<unk>"), 300)
    for text in (*TEXTS[1:], "ab abc  cab"):
        assert choice.tokenizer(text)["input_ids"] == source.encode(text).ids
    assert not [note for note in choice.assumptions if "space" in note]


def test_merges_that_no_scores_give_are_rejected():
    source = pieces(True, True, MERGES[:2] + MERGES[3:])
    with pytest.raises(aprnb.AprnbError, match="not those of a SentencePiece model"):
        tokenizer_values(metadata_of(source, bos_token="<s>"), "llama", 300)


def with_merge(path: Path, left: str, right: str) -> dict[str, Any]:
    """A tokenizer.json whose first merge is this one, so that where text is cut shows in its tokens."""
    whole = json.loads(path.read_text())
    whole["model"]["vocab"][left + right] = 900
    whole["model"]["merges"].insert(0, [left, right])
    return whole


def test_a_llama_that_splits_as_qwen_is_written_as_it_splits(sources):
    """Llama's way leaves two digits together, this source's does not."""
    source = Tokenizer.from_str(json.dumps(with_merge(sources / "llama" / "tokenizer.json", "1", "2")))
    metadata = metadata_of(source, eos_token="<|im_end|>")
    assert tokenizer_values(metadata, "llama", 1024).values["tokenizer.ggml.pre"].value == "qwen2"
    choice = read_back(metadata, 1024)
    for text in TEXTS:
        assert choice.tokenizer(text)["input_ids"] == source.encode(text).ids


def test_a_splitting_that_gguf_has_no_name_for_is_rejected(sources):
    source = Tokenizer.from_str(json.dumps(with_merge(sources / "qwen2" / "tokenizer.json", "o", "Ġ")))
    source.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    with pytest.raises(aprnb.AprnbError, match="GGUF cannot express how this tokenizer splits text"):
        tokenizer_values(metadata_of(source, eos_token="<|im_end|>"), "qwen2", 1024)


@pytest.mark.parametrize(
    ("step", "said"), [(7, "has a step without a type"), ({"type": "Nonsense"}, "is not a valid tokenizer")]
)
def test_a_tokenizer_json_that_the_library_rejects_is_an_aprnb_error(sources, step, said):
    metadata = metadata_of(Tokenizer.from_file(str(sources / "qwen2" / "tokenizer.json")), eos_token="<|im_end|>")
    metadata["hf_tokenizer"] = {**metadata["hf_tokenizer"], "pre_tokenizer": step}
    with pytest.raises(aprnb.errors.TokenizerError, match=f"source's tokenizer.json {said}"):
        tokenizer_values(metadata, "qwen2", 1024)


def test_an_end_token_behind_every_text_is_kept(sources):
    source = Tokenizer.from_file(str(sources / "qwen2" / "tokenizer.json"))
    source.post_processor = processors.TemplateProcessing(
        single=["$A", "<|im_end|>"], special_tokens=[("<|im_end|>", 826)]
    )
    metadata = metadata_of(source, eos_token="<|im_end|>")
    values = tokenizer_values(metadata, "qwen2", 1024).values
    assert values["tokenizer.ggml.add_eos_token"].value is True
    assert read_back(metadata, 1024).tokenizer("a")["input_ids"] == source.encode("a").ids


def test_more_tokens_than_rows_are_rejected(pocket_qwen3):
    with pytest.raises(aprnb.AprnbError, match="highest id is 826; expected ids below 800") as caught:
        tokenizer_values(aprnb.open(pocket_qwen3).metadata, "qwen3", 800)
    assert "<|im_end|>" not in caught.value.action  # the first five of 27
    assert "and 22 more" in caught.value.action
    assert "resize_token_embeddings(827)" in caught.value.action


def test_two_tokens_with_one_id_are_named():
    vocabulary = {"a": 0, "b": 1, "ab": 1}
    with pytest.raises(aprnb.AprnbError, match=r"tokenizer.json gives the id 1 to 'b' and 'ab'"):
        tokenizer_metadata({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}, {}, "tokenizer.json")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"added_tokens_decoder": {"9": {"content": "<extra>"}}},
            "tokenizer.json lacks <extra>, which transformers adds",
        ),
        ({"additional_special_tokens": ["<x>", {"content": "<y>"}, "b"]}, "lacks <x>, <y>, which"),
        ({"extra_special_tokens": {"image": "<image>"}}, "lacks <image>, which"),
        ({"added_tokens_decoder": {"1": {"content": "b"}}, "additional_special_tokens": [3]}, None),
    ],
)
def test_tokens_that_tokenizer_json_lacks_are_told(settings, told):
    found = missing_tokens({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}}, settings)
    assert found == [] if told is None else told in found[0]


def test_dropout_of_merges_is_listed_as_lost(sources):
    document = json.loads((sources / "qwen2" / "tokenizer.json").read_text("utf-8"))
    document["model"]["dropout"] = 0.1
    source = Tokenizer.from_str(json.dumps(document))
    warnings = tokenizer_values(metadata_of(source, eos_token="<|im_end|>"), "qwen2", 1024).warnings
    assert any("dropout 0.1" in warning for warning in warnings)
