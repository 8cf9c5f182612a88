"""What GGUF has no key for is named in warnings, and comes back from the file all the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import aprnb
from aprnb.formats.gguf.metadata import apr_metadata
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.huggingface.tokenizer_json import reassembled, special_ids, tokenizer_metadata
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.facts import read_facts
from aprnb.tokenizer.gguf.values import GgufTokenizer, tokenizer_values
from aprnb_tests.texts import DECOMPOSED, TEXTS, with_special
from aprnb_tests.tokenizers_of_families import QWEN, byte_level, sentencepiece

END = "<|endoftext|>"
ROWS = 1024


def metadata_of(tokenizer: Tokenizer, **special: str) -> dict[str, Any]:
    """What a folder with this tokenizer.json has as metadata."""
    parsed = json.loads(tokenizer.to_str())
    return tokenizer_metadata(parsed, {"vocab_size": ROWS}, "x") | special_ids(parsed, {}, special)


def as_gguf(tokenizer: Tokenizer, **special: str) -> GgufTokenizer:
    return tokenizer_values(metadata_of(tokenizer, **special), "gpt2", ROWS)


def assert_read_back(written: GgufTokenizer, source: Tokenizer) -> None:
    metadata, warnings = apr_metadata(written.values, {})
    found = build_tokenizer(metadata, "gpt2").checkpoint_tokenizer.backend_tokenizer
    added = tuple(token.content for token in source.get_added_tokens_decoder().values())
    for text in (*TEXTS, *DECOMPOSED, *with_special(added)):
        ids = source.encode(text).ids
        assert found.encode(text).ids == ids
        for skip in (True, False):
            assert found.decode(ids, skip_special_tokens=skip) == source.decode(ids, skip_special_tokens=skip)
    assert warnings == []


def gpt2(change: Callable[[Tokenizer], object]) -> Tokenizer:
    made = byte_level(None, (END, "<mask>"))
    change(made)
    return made


def llama(change: Callable[[Tokenizer], object]) -> Tokenizer:
    made = sentencepiece(("<unk>", "<s>", "</s>", "<mask>"), prepend=True, bos="<s>")
    change(made)
    return made


def template(made: Tokenizer, *single: str) -> None:
    tokens = [(text, made.token_to_id(text)) for text in dict.fromkeys(single) if text != "$A"]
    made.post_processor = processors.TemplateProcessing(single=list(single), special_tokens=tokens)


def metaspace(made: Tokenizer, scheme: str = "first") -> None:
    made.normalizer = None
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


NFKC = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
STRIP = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
OTHER = QWEN.replace("'ve|", "")
LOST = {
    "lstrip": (gpt2(lambda t: t.add_special_tokens([AddedToken("<mask>", lstrip=True)])), "lstrip .* of <mask>"),
    "rstrip": (llama(lambda t: t.add_special_tokens([AddedToken("<mask>", rstrip=True)])), "rstrip .* of <mask>"),
    "single_word": (gpt2(lambda t: t.add_tokens([AddedToken("low", single_word=True)])), "single_word .* of low"),
    "normalized": (llama(lambda t: t.add_tokens([AddedToken("a b", normalized=True)])), "normalized .* of a b"),
    "NFKC": (gpt2(lambda t: setattr(t, "normalizer", NFKC)), "does not normalise text to NFKC"),
    "normalizer": (gpt2(lambda t: setattr(t, "normalizer", NFKC)), "does not apply the normalizer Strip"),
    "decoder": (gpt2(lambda t: setattr(t, "decoder", STRIP)), r"the tokenizer's decoder \(ByteLevel, Strip\)"),
    "post-processor": (gpt2(lambda t: template(t, END, "$A", "<mask>")), "does not add <.endoftext.>, <mask> around"),
    "first": (llama(metaspace), "a space to text that begins with one and to text after added tokens"),
    "always": (llama(lambda t: metaspace(t, "always")), "adds a space to text that begins with one, which the"),
    "pattern": (byte_level(OTHER, (END,)), "qwen2"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_llama_cpp_does_not_read_is_named_and_read_back_by_us(name):
    source, said = LOST[name]
    bos = "<s>" if source.token_to_id("<s>") is not None else END
    written = as_gguf(source, bos_token=bos, eos_token=END)
    named = [w for w in written.warnings if w.startswith("llama.cpp ") and re.search(said, w)]
    assert len(named) == 1, written.warnings
    assert_read_back(written, source)


def test_what_the_keys_state_needs_no_json_and_no_warning():
    source = byte_level(None, (END,), plain=("<tool>",))
    written = as_gguf(source, eos_token=END, unk_token=END)
    assert written.warnings == ()
    assert "aprnb.hf_tokenizer" not in written.values
    assert written.values["tokenizer.ggml.unknown_token_id"].value == source.token_to_id(END)
    assert_read_back(written, source)


def test_bos_and_eos_around_texts_are_flags():
    source = gpt2(lambda made: template(made, END, "$A", "<mask>"))
    written = as_gguf(source, bos_token=END, eos_token="<mask>")
    flags = [written.values[f"tokenizer.ggml.add_{name}_token"].value for name in ("bos", "eos")]
    assert (flags, written.warnings) == ([True, True], ())
    assert_read_back(written, source)


def test_settings_of_a_gguf_file_are_written_again():
    settings = {"eot_token_id": 5, "fim_pre_token_id": 7, "remove_extra_whitespaces": False, "add_sep_token": False}
    metadata = metadata_of(byte_level(None, (END,)), eos_token=END)
    values = tokenizer_values({**metadata, **{f"tokenizer.{key}": settings[key] for key in settings}}, "gpt2", ROWS)
    again, _ = apr_metadata(values.values, {})
    assert {key: again[f"tokenizer.{key}"] for key in settings} == settings


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": NaN}', "7" * 5000, '"\\ud800"'])
def test_invalid_json_in_a_gguf_key_is_a_warning(text):
    metadata, warnings = apr_metadata({"aprnb.hf_tokenizer": GgufValue("string", text)}, {})
    assert "hf_tokenizer" not in metadata
    assert len(warnings) == 1
    assert "aprnb.hf_tokenizer" in warnings[0]


def test_a_normalizer_that_changes_plain_text_is_rejected_by_name():
    source = gpt2(lambda made: setattr(made, "normalizer", normalizers.Lowercase()))
    with pytest.raises(aprnb.AprnbError, match="does not apply the normalizer Lowercase"):
        as_gguf(source, eos_token=END)


def test_a_space_in_front_of_byte_level_text_is_rejected_by_name():
    source = byte_level(QWEN, (END,), nfc=True)
    source.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(aprnb.AprnbError, match=r"adds no space in front of text, .* \(add_prefix_space\)"):
        as_gguf(source, eos_token=END)


def unknown_by_merges() -> Tokenizer:
    """Qwen's vocabularies have `<unk>` as an ordinary product of merges."""
    parsed = json.loads(byte_level(QWEN, (), nfc=True).to_str())
    vocabulary, merges = parsed["model"]["vocab"], parsed["model"]["merges"]
    for left, right in (("u", "n"), ("k", ">"), ("<", "un"), ("<un", "k>")):
        vocabulary.setdefault(left + right, len(vocabulary))
        merges.append([left, right])
    made = Tokenizer.from_str(json.dumps(parsed))
    made.add_special_tokens([END])
    return made


def test_an_ordinary_token_unk_is_no_hole():
    source = unknown_by_merges()
    metadata = metadata_of(source, eos_token=END)
    assert describe_tokenizer(metadata, "qwen3")["problem"] is None
    assert describe_tokenizer(metadata, "qwen3")["used"] == source.get_vocab_size()
    written = tokenizer_values(metadata, "qwen3", ROWS)
    at = source.token_to_id("<unk>")
    assert written.values["tokenizer.ggml.token_type"].value[at] == 1
    assert written.values["tokenizer.ggml.tokens"].value[at : at + 3] == ["<unk>", END, f"[PAD{at + 2}]"]
    assert_read_back(written, source)


def test_an_ordinary_token_unk_is_found_among_fillers_of_other_importers():
    source = unknown_by_merges()
    metadata = metadata_of(source, eos_token=END)
    texts = ["<unk>" if text.startswith("[PAD") else text for text in metadata["tokenizer.vocabulary"]]
    imported = {key: metadata[key] for key in ("tokenizer.merges", "tokenizer.model_type", "tokenizer.eos_token_id")}
    facts = read_facts({**imported, "tokenizer.vocabulary": texts})
    assert dict(facts.tokens) == {number: text for text, number in source.get_vocab().items()}


def test_tokens_that_look_like_fillers_are_kept():
    """`[PAD910]` at 910 is a token, and so is `<unk>`; `[PAD905]` is the token 916, while 905 is a hole."""
    parsed = json.loads(byte_level(None, (END,)).to_str())
    example = parsed["added_tokens"][0]
    parsed["model"]["vocab"][END] = example["id"]
    for number, text in ((910, "[PAD910]"), (915, "<unk>"), (916, "[PAD905]")):
        parsed["model"]["vocab"][text] = number
        parsed["added_tokens"].append({**example, "id": number, "content": text})
    source = Tokenizer.from_str(json.dumps(parsed))
    written = as_gguf(source, eos_token=END)
    assert len(set(written.values["tokenizer.ggml.tokens"].value)) == ROWS  # llama.cpp rejects equal ones
    assert_read_back(written, source)
    assert reassembled(metadata_of(source)) == json.loads(source.to_str())


def test_merges_with_spaces_are_read_and_rejected_for_gguf_by_name():
    vocabulary = ["a", " ", "b", "a ", "a b", " b", END, "Ġ", "Ċ"]
    merges = [("a", " "), ("a ", "b"), (" ", "b")]
    source = Tokenizer(models.BPE({text: at for at, text in enumerate(vocabulary)}, merges))
    source.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    source.add_special_tokens([END])
    metadata = metadata_of(source, eos_token=END)
    assert list(read_facts(metadata).merges) == merges
    with pytest.raises(aprnb.AprnbError, match="the merge 'a  ' has a part with a space"):
        tokenizer_values(metadata, "gpt2", ROWS)


def test_one_way_to_read_a_merge_with_a_space_is_taken():
    listed = {
        "tokenizer.vocabulary": ["a", " ", "b", "a ", "Ġ", "Ċ", "a b"], "tokenizer.merges": ["a  ", "a  b"],
        "tokenizer.model_type": "BPE",
    }  # fmt: skip
    assert list(read_facts(listed).merges) == [("a", " "), ("a ", "b")]


def test_gemmas_pieces_do_not_make_a_byte_level_vocabulary():
    source = sentencepiece(("<pad>", "<eos>", "<bos>", "<unk>"), prepend=False, bos="<bos>")
    assert {"Ġ", "Ċ", "▁"} <= set(source.get_vocab())
    metadata = metadata_of(source, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    assert read_facts(metadata).kind == "SentencePiece BPE"
    bare = {key: metadata[key] for key in metadata if key != "hf_tokenizer"}
    assert read_facts(bare).kind == "SentencePiece BPE"
