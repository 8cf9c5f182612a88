"""The tokenizer of each family goes through every format, with equal ids and texts: for `tokenizers` and llama.cpp."""

from __future__ import annotations

import json
import unicodedata
from functools import cached_property
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import aprnb
from aprnb_tests import families, tokenizers_of_families
from aprnb_tests.texts import DECOMPOSED, TEXTS, with_special


class Ways:
    """A family's tiny model as folder and in what it is converted to."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.place, self.folder = family, folder, folder / "hf"
        families.saved(family, self.folder, vocabulary=1024, spread=0.0, changes=families.IN_GGUF[family])
        tokenizers_of_families.save(family, self.folder)
        self.source = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        added = self.source.get_added_tokens_decoder().values()
        self.special = tuple(token.content for token in added if token.special)
        self.texts = (*TEXTS, *DECOMPOSED, *with_special(self.special))

    @cached_property
    def gguf(self) -> aprnb.conversion.Conversion:
        return aprnb.convert(self.folder, self.place / "x.gguf")

    def differing(self, folder: Path) -> list[str]:
        """Texts to which the tokenizer in `folder` gives other ids, or which it decodes otherwise."""
        found = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return [text for text in self.texts if _results(found, text) != _results(self.source, text)]


def _results(tokenizer: Tokenizer, text: str) -> list[object]:
    ids = tokenizer.encode(text).ids
    return [ids, *(tokenizer.decode(ids, skip_special_tokens=skip) for skip in (True, False))]


@pytest.fixture(scope="module", params=tokenizers_of_families.FAMILIES)
def ways(request, tmp_path_factory):
    return Ways(request.param, tmp_path_factory.mktemp(request.param))


def test_by_apr_and_gguf_to_a_folder(ways):
    apr = aprnb.convert(ways.folder, ways.place / "x.apr").path
    gguf = aprnb.convert(apr, ways.place / "y.gguf").path
    assert ways.differing(aprnb.convert(gguf, ways.place / "from-gguf").path) == []


def test_by_gguf_and_apr_to_a_folder(ways):
    apr = aprnb.convert(ways.gguf.path, ways.place / "y.apr").path
    assert ways.differing(aprnb.convert(apr, ways.place / "from-apr").path) == []


def test_an_apr_gives_the_same_tokenizer_json(ways):
    apr = aprnb.convert(ways.folder, ways.place / "z.apr").path
    again = aprnb.convert(apr, ways.place / "again").path
    before, after = (json.loads((folder / "tokenizer.json").read_text()) for folder in (ways.folder, again))
    assert after == before


def test_llama_cpp_gives_the_same_ids_but_where_a_warning_says_so(ways, llama_cpp):
    with llama_cpp(ways.gguf.path) as judge:
        differing = {
            text for text in ways.texts
            if judge.tokenize(text) != ways.source.encode(text, add_special_tokens=False).ids
        }  # fmt: skip
        assert judge.tokenize("Hello", add_special=True) == ways.source.encode("Hello").ids
    warnings = " ".join(ways.gguf.warnings)
    if "normalise text to NFC" in warnings:
        differing -= set(DECOMPOSED)
    if "combining marks" in warnings:
        differing = {text for text in differing if not any(unicodedata.category(sign)[0] == "M" for sign in text)}
    if "rstrip" in warnings:
        differing -= set(with_special(ways.special))
    assert differing == set()


def test_the_card_shows_the_tokenizer_of_each_format(ways):
    used = ways.source.get_vocab_size()
    apr = aprnb.convert(ways.folder, ways.place / "card.apr").path
    for path in (ways.folder, apr, ways.gguf.path):
        shown = aprnb.inspect(path).to_json()["tokenizer"]
        assert (shown["problem"], shown["used"], shown["added"]) == (
            None, used, len(ways.source.get_added_tokens_decoder()),
        )  # fmt: skip
