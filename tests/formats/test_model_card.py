"""The front matter of model cards, judged by PyYAML, and the keys that they map to, judged by the gguf package."""

from __future__ import annotations

import time

import pytest
import yaml
from gguf import Metadata

from aprnb.formats.huggingface.front_matter import read_front_matter, write_front_matter
from aprnb.formats.huggingface.model_card import general_of_card

CARDS = {
    "lists": "tags:\n- chat\n- \"a: b\"\n  # a comment\n- 'it''s'\nlanguage:\n  - en\n  - zh\n",
    "flow lists": "tags: [chat, \"a, b\", 'c']\nlanguage: []\n",
    "texts": "license: mit # a comment\nlink: https://x.org/a#b\nname: \"a \\\"b\\\" \\u00e9\"\nother: 'it''s'\n",
    "folded": "description: >-\n  one\n  two\nlong: a b\n  c d\nnext: x\n",
    "nested": "model-index:\n- name: x\n  results: []\nwidget:\n  - text: hi\nextra: {a: b}\nlicense: mit\n",
    "empty": "license:\ntags: null\nname: ~\nlanguage: en\n",
    "carriage returns": "license: mit\r\ntags:\r\n- a\r\n",
    "indented": "base_model:\n    - Owner/Model\n    - Owner/Other\n",
}
WITHOUT = {"nested": {"model-index", "widget", "extra"}}


def card(text: str) -> str:
    return f"---\n{text}---\n# Title\n---\nmore: text\n"


@pytest.mark.parametrize("name", CARDS)
def test_front_matter_is_read_as_yaml(name):
    expected = {key: value for key, value in yaml.safe_load(CARDS[name]).items() if value is not None}
    found = read_front_matter(card(CARDS[name]))
    assert found == {key: value for key, value in expected.items() if key not in WITHOUT.get(name, ())}


def test_values_stay_texts():
    """YAML reads `no` as false and 1.0 as a number: a language and a version."""
    found = read_front_matter(card("language:\n- no\nversion: 1.0\nlicense: null\n"))
    assert found == {"language": ["no"], "version": "1.0"}


def test_what_is_written_is_read_by_yaml_and_by_us():
    written = {"name": 'x"\\\n\x7f\x85\u2028 é 🎉 # no', "tags": ["no", "1.0", "- a", "a: b"], "license": "mit"}
    text = write_front_matter(written)
    assert yaml.safe_load(text.split("---\n")[1]) == written
    assert read_front_matter(text) == written


@pytest.mark.parametrize("text", ["", "# Title", "---", "---\nlicense: mit\n", "--- x\nlicense: mit\n---", "\0---\n"])
def test_a_card_without_front_matter_says_nothing(text):
    assert read_front_matter(text) == {}


@pytest.mark.parametrize(
    "text",
    [
        "a: [" + "'" * 200_000 + "]\n", 'a: "' + "\\" * 200_000 + '"\n', "a: x" + " " * 200_000 + "y\n",
        "a: [" + '"a' * 100_000 + "]\n", "- \n" * 60_000, "a:\n" + "- " * 100_000 + "\n",
        "a: " + " #" * 100_000 + "x\n", "a: &a [" + "*a, " * 50_000 + "]\n", "x" * 200_000 + "\n",
        "a: [" + "b, " * 70_000 + "]\n",
    ],
)  # fmt: skip
def test_malicious_cards_take_no_time(text):
    began = time.perf_counter()
    general_of_card(read_front_matter(card(text)))
    assert time.perf_counter() - began < 3


def test_the_keys_are_those_of_the_gguf_package(tmp_path):
    """Names of models keep their spelling here; that package makes titles of them."""
    text = (
        "license: other\nlicense_name: ours\nlicense_link: https://x.org/l\nlanguage:\n- en\n- fr\ntags:\n- chat\n"
        "pipeline_tag: text-generation\nbase_model: owner/model\ndatasets:\n- owner/data\nmodel_name: Name\n"
        "model_creator: Creator\nurl: https://x.org\nrepo_url: https://x.org/r\nversion: v2\norganization: Org\n"
    )
    (tmp_path / "README.md").write_text(card(text))
    theirs = Metadata.load(model_path=tmp_path)
    found = general_of_card(read_front_matter(card(text)))
    for key in ("name", "author", "version", "organization", "license", "tags", "languages"):
        assert found[key] == getattr(theirs, key)
    for key in ("license_name", "license_link", "source_url", "source_repo_url"):
        assert found[key.replace("_", ".", 1)] == getattr(theirs, key)
    for key, model in (("base_model", theirs.base_models[0]), ("dataset", theirs.datasets[0])):
        assert found[f"{key}.0.repo_url"] == model["repo_url"]
        assert found[f"{key}.0.name"].lower() == model["name"].lower()
