"""Published tokenizers go through every format, with equal ids and texts: judged by `tokenizers` and llama.cpp."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

import aprnb
from aprnb_tests.texts import DECOMPOSED, TEXTS, with_special

pytestmark = pytest.mark.real
MODELS = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", 151_936),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", 262_208),
    "llama2": ("LlamaConfig", "LlamaForCausalLM", 32_000),
    "llama3_1": ("LlamaConfig", "LlamaForCausalLM", 128_256),
}
"""The published model's classes and rows of its embedding."""


class Published:
    """A model of one narrow layer with a published tokenizer, and what it is converted to."""

    def __init__(self, name: str, tokenizers: Path, place: Path) -> None:
        self.place, self.folder = place, place / "hf"
        config_class, model_class, rows = MODELS[name]
        config = getattr(transformers, config_class)(
            vocab_size=rows, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, query_pre_attn_scalar=16,
        )  # fmt: skip
        getattr(transformers, model_class)(config).to(torch.float16).save_pretrained(self.folder)
        for file in (tokenizers / name).iterdir():
            shutil.copy(file, self.folder)
        self.source = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        special = [token.content for token in self.source.get_added_tokens_decoder().values() if token.special]
        self.texts = (*TEXTS, *DECOMPOSED, *with_special(tuple(special[:6])))
        self.gguf = aprnb.convert(self.folder, place / "x.gguf")

    def differing(self, folder: Path) -> list[str]:
        """Texts to which the tokenizer in `folder` gives other ids, or which it decodes otherwise."""
        found = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return [text for text in self.texts if _results(found, text) != _results(self.source, text)]


def _results(tokenizer: Tokenizer, text: str) -> list[object]:
    ids = tokenizer.encode(text).ids
    return [ids, *(tokenizer.decode(ids, skip_special_tokens=skip) for skip in (True, False))]


@pytest.fixture(scope="module", params=MODELS)
def published(request, real_models, tmp_path_factory):
    return Published(request.param, real_models / "tokenizers", tmp_path_factory.mktemp(request.param))


def test_llama_cpp_gives_the_ids_of_the_published_tokenizer(published, llama_cpp):
    with llama_cpp(published.gguf.path) as judge:
        differing = {
            text for text in published.texts
            if judge.tokenize(text) != published.source.encode(text, add_special_tokens=False).ids
        }  # fmt: skip
        assert judge.tokenize("Hello", add_special=True) == published.source.encode("Hello").ids
    told = any("does not normalise text to NFC" in warning for warning in published.gguf.warnings)
    assert differing == (set(DECOMPOSED) if told else set())
    assert told == ("qwen3" in str(published.place))


def test_a_folder_made_of_the_gguf_gives_the_same_ids_and_texts(published):
    assert published.differing(aprnb.convert(published.gguf.path, published.place / "from-gguf").path) == []


def test_an_apr_keeps_the_tokenizer_json_exactly(published):
    apr = aprnb.convert(published.folder, published.place / "x.apr").path
    again = aprnb.convert(apr, published.place / "from-apr").path
    before, after = (json.loads((folder / "tokenizer.json").read_text()) for folder in (published.folder, again))
    assert after == before


def test_by_gguf_and_apr_to_a_folder(published):
    apr = aprnb.convert(published.gguf.path, published.place / "y.apr").path
    assert published.differing(aprnb.convert(apr, published.place / "from-both").path) == []


def test_the_card_has_no_problem(published):
    for path in (published.folder, published.gguf.path):
        shown = aprnb.inspect(path).to_json()["tokenizer"]
        assert (shown["problem"], shown["used"]) == (None, published.source.get_vocab_size())
