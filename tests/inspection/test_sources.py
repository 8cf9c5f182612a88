"""Whatever key a report names as a source is in the file: GGUF's own key, or a key of the folder's config.json."""

from __future__ import annotations

import json
import re
import struct
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.errors import ArchitectureError
from aprnb_tests import families
from aprnb_tests.safetensors_bytes import folder_of

ABSENT = re.compile(r"\S+ absent$|\(\S+ is absent\)$")
"""A source may say that a key is not there."""


def sources_of(path: Path) -> list[str]:
    report = aprnb.inspect(path)
    assert report.architecture
    tokenizer = [value.get("source") for value in report.tokenizer.values() if isinstance(value, dict)]
    return [ABSENT.sub("", text) for text in (*report.architecture.sources.values(), *tokenizer) if text]


def require_named_keys(path: Path) -> None:
    sources = sources_of(path)
    named = [found[1] for text in sources for found in re.finditer(r"(?:GGUF|metadata) ([\w.\-]+)", text)]
    assert {"general.architecture"} < set(named)
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for key in named:  # in the file a key is its length, then its text
            assert data.find(struct.pack("<Q", len(key)) + key.encode()) >= 0, key
    assert not any(text.startswith("metadata ") for text in sources)


@pytest.mark.real
@pytest.mark.parametrize("name", ["gemma-3-270m", "qwen2.5-coder-0.5b-instruct"])
def test_the_sources_of_a_published_gguf_are_its_own_keys(real_models, name):
    require_named_keys(real_models / f"{name}.gguf")


@pytest.mark.parametrize("name", ["pocket-qwen3", "llama-q4k"])
def test_the_sources_of_a_written_gguf_are_its_own_keys(real, tmp_path, name):
    require_named_keys(aprnb.convert(real(name), tmp_path / "x.gguf").path)


def test_the_source_of_a_chat_template_is_its_own_key(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")
    path = aprnb.convert(folder, tmp_path / "x.gguf").path
    require_named_keys(path)
    assert {"GGUF tokenizer.chat_template", "GGUF tokenizer.ggml.pre"} < set(sources_of(path))


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt2", "phi3"])
def test_the_sources_of_a_folder_are_keys_of_its_config(family, tmp_path):
    families.saved(family, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    sources = sources_of(tmp_path / "hf")
    named = [found[1] for text in sources if (found := re.match(r"config\.json ([a-z_]+)", text))]
    assert "model_type" in named
    assert set(named) <= set(config), set(named) - set(config)
    assert not any(text.startswith(("metadata", "hf_config")) for text in sources)


def test_a_folder_that_contradicts_itself_is_told_once_by_its_own_key(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    with pytest.raises(ArchitectureError) as caught:
        aprnb.check(folder)
    said = (
        "num_hidden_layers is 3 according to layers in the tensor index, 7 according to config.json num_hidden_layers"
    )
    assert caught.value.found == said


def test_a_spelling_that_only_the_typed_metadata_know_is_named_as_in_the_config(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["n_layer"] = 9
    del config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArchitectureError, match=r"9 according to config\.json n_layer"):
        aprnb.check(folder)


def test_the_tokenizer_is_described_in_words(pocket_qwen3):
    """The end token of the pocket model has the id 2 in its metadata."""
    report = aprnb.inspect(pocket_qwen3)
    shown = str(report)
    eos = report.tokenizer["eos"]
    assert f"{eos['token']} ({eos['id']:,})" in shown
    assert "{'" not in shown
    assert "None" not in shown.partition("Tokenizer")[2]
    assert not re.search(r"^ *problem ", shown, re.MULTILINE)


def test_end_tokens_that_no_model_can_produce_are_named(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 999999, "<|im_end|>"]}')
    (warning,) = [text for text in aprnb.inspect(folder).warnings if "eos_token_id" in text]
    assert warning.startswith("generation_config.json eos_token_id has 999999, '<|im_end|>', no id of the ")


def test_two_tokens_of_one_id_are_both_named(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")
    parsed: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    assert not [text for text in aprnb.inspect(folder).warnings if "gives the id" in text]
    first = parsed["added_tokens"][0]
    first["id"] = 5
    other = next(text for text, number in parsed["model"]["vocab"].items() if number == 5)
    assert other != first["content"]
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    (warning,) = [text for text in aprnb.inspect(folder).warnings if "gives the id" in text]
    assert warning.startswith(f"tokenizer.json gives the id 5 to {other!r} and {first['content']!r}")
    assert warning in aprnb.convert(folder, tmp_path / "x.apr").warnings
