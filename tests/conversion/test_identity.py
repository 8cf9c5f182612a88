"""Name, licence and origin of a model go through every conversion; a trained model says which one it is made from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFWriter

import aprnb
from aprnb.conversion.apr_metadata import stored_metadata
from aprnb.conversion.gguf.general import identity_values
from aprnb.formats.gguf.provenance import as_metadata, derived, general
from aprnb.formats.huggingface.model_card import card_text, general_of_card
from aprnb_tests import families
from aprnb_tests.safetensors_bytes import folder_of

TEXTS = {
    "name": "Our Model 0.1B", "author": "An Author", "version": "v3", "organization": "Owners", "finetune": "Instruct",
    "basename": "Our-Model", "description": "Says <b>moo</b>", "quantized_by": "Somebody", "size_label": "0.1B",
    "license": "apache-2.0", "license.name": "a name", "license.link": "https://example.org/license",
    "url": "https://example.org", "doi": "10.1/x", "uuid": "f0e1", "repo_url": "https://example.org/repo",
    "source.url": "https://example.org/source", "source.doi": "10.2/y", "source.repo_url": "https://example.org/git",
    "base_model.0.name": "Base", "base_model.0.author": "B", "base_model.0.organization": "Basers",
    "base_model.0.repo_url": "https://huggingface.co/Basers/Base", "dataset.0.name": "Answers",
}  # fmt: skip
RECOMPUTED = ("general.file_type", "general.quantization_version", "general.alignment")


def general_of(path: Path) -> dict[str, Any]:
    found = {key: field.contents() for key, field in GGUFReader(path).fields.items() if key.startswith("general.")}
    return {key: value for key, value in found.items() if key not in RECOMPUTED}


@pytest.fixture(scope="module")
def published(pocket_qwen3, tmp_path_factory) -> Path:
    """A GGUF file that the `gguf` package writes, with every kind of `general.*` key."""
    folder = tmp_path_factory.mktemp("published")
    plain = GGUFReader(aprnb.convert(pocket_qwen3, folder / "plain.gguf", dtype="f16").path)
    writer = GGUFWriter(folder / "published.gguf", "qwen3")
    for key, value in TEXTS.items():
        writer.add_string(f"general.{key}", value)
    writer.add_type("model")
    writer.add_base_model_count(1)
    writer.add_dataset_count(1)
    writer.add_tags(["chat", "text-generation"])
    writer.add_languages(["en", "no"])
    writer.add_file_type(1)
    writer.add_sampling_temp(0.6)
    writer.add_sampling_top_k(20)
    for key, field in plain.fields.items():
        if not key.startswith(("GGUF.", "general.")):
            writer.add_key_value(key, field.contents(), field.types[0], *field.types[1:2])
    for tensor in plain.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "published.gguf"


def test_every_general_key_comes_back_from_apr(published, tmp_path):
    aprnb.convert(published, tmp_path / "x.apr")
    assert aprnb.open(tmp_path / "x.apr").metadata["name"] == "Our Model 0.1B"
    aprnb.convert(tmp_path / "x.apr", tmp_path / "y.gguf")
    before, after = general_of(published), general_of(tmp_path / "y.gguf")
    assert after == before
    types = [{key: field.types for key, field in GGUFReader(path).fields.items() if key in before} for path in
             (published, tmp_path / "y.gguf")]  # fmt: skip
    assert types[0] == types[1]


def test_who_quantised_the_source_is_not_said_of_tensors_that_are_quantised_again(published, tmp_path):
    for target in ("x.apr", "y.gguf"):
        aprnb.convert(published, tmp_path / target, dtype="q8")
    aprnb.convert(tmp_path / "x.apr", tmp_path / "x.gguf")
    for name in ("x.gguf", "y.gguf"):
        found = general_of(tmp_path / name)
        assert "general.quantized_by" not in found
        assert found["general.author"] == "An Author"


def test_a_folder_of_the_hubs_cache_has_the_repositorys_name(pocket_qwen3, sources, tmp_path):
    snapshots = tmp_path / "models--Owner--Our-Model" / "snapshots"
    snapshots.mkdir(parents=True)
    folder = folder_of(pocket_qwen3, sources / "qwen3", snapshots / "0a1b")
    metadata = aprnb.open(folder).metadata
    assert (metadata["name"], general(metadata)["organization"]) == ("Our-Model", "Owner")


def test_a_folder_keeps_what_a_model_card_has_fields_for_and_names_the_rest(published, tmp_path):
    import yaml

    warnings = aprnb.convert(published, tmp_path / "out").warnings
    card = yaml.safe_load((tmp_path / "out" / "README.md").read_text("utf-8").split("---\n")[1])
    assert card["license"] == "apache-2.0"
    assert card["tags"] == ["chat", "text-generation"]
    assert card["language"] == ["en", "no"]
    assert card["base_model"] == ["Basers/Base"]
    assert (card["name"], card["author"], card["quantized_by"]) == ("Our Model 0.1B", "An Author", "Somebody")
    named = next(warning for warning in warnings if warning.startswith("README.md has no field for"))
    lost = [f"general.{key}" for key in ("url", "doi", "uuid", "repo_url", "base_model.0.author")]
    assert set(lost) <= set(named.removeprefix("README.md has no field for ").split(", "))
    aprnb.convert(tmp_path / "out", tmp_path / "again.gguf")
    again = general_of(tmp_path / "again.gguf")
    kept = {key: value for key, value in general_of(published).items() if key not in named}
    assert {key: again.get(key) for key in kept} == kept


PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma-3-270m": {
        "type": "model", "name": "Gemma 3 270m", "basename": "gemma-3", "size_label": "270M", "license": "gemma",
        "tags": ["gemma3", "gemma", "google", "text-generation"],
    },
    "qwen2.5-coder-0.5b-instruct": {
        "type": "model", "name": "Qwen2.5 Coder 0.5B Instruct AWQ", "finetune": "Instruct-AWQ",
        "basename": "Qwen2.5-Coder", "size_label": "0.5B",
    },
}  # fmt: skip
"""What the `gguf` package's reader finds in the published files; reading their vocabularies takes it half a minute."""


@pytest.mark.real
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_keep_their_identity(real_models, name):
    """Metadata alone: of the file, and of the `.apr` that a conversion writes."""
    expected = {f"general.{key}": value for key, value in PUBLISHED[name].items()}
    with aprnb.open(real_models / f"{name}.gguf") as checkpoint:
        of_apr = stored_metadata(checkpoint, aprnb.check(checkpoint), "other", {})
        for metadata in (checkpoint.metadata, of_apr):
            values, notes = identity_values(metadata, "other")
            assert {key: value.value for key, value in values.items()} == expected
            assert notes == ()
        assert of_apr["name"] == expected["general.name"]


def byte_level_phi3(folder: Path, sources: Path) -> Path:
    """A Phi-3 with a byte-level vocabulary, as Phi-4-mini has."""
    families.saved("phi3", folder, vocabulary=1024)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": None}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((sources / "qwen3" / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", ["Phi-4-mini-instruct", "phi3", "Our-Phi-3-mini", "PHI3.phi-3"])
def test_llama_cpp_opens_a_byte_level_phi3_of_any_name(llama_cpp, sources, tmp_path, name):
    source = byte_level_phi3(tmp_path / name, sources)
    aprnb.convert(source, tmp_path / "one.gguf")
    warnings = [*aprnb.convert(tmp_path / "one.gguf", tmp_path / "x.apr").warnings]
    aprnb.convert(tmp_path / "x.apr", tmp_path / "two.gguf")
    shown = general_of(tmp_path / "two.gguf")["general.name"]
    assert shown == general_of(tmp_path / "one.gguf")["general.name"]
    assert shown.replace(" ", "").replace("-", "").lower() == name.replace("-", "").lower()
    assert not any("general.name" in warning for warning in warnings)
    with llama_cpp(tmp_path / "two.gguf") as model:
        assert model.tokenize("hi")


def test_a_changed_spelling_of_the_name_is_a_warning(sources, tmp_path):
    source = byte_level_phi3(tmp_path / "phi3", sources)
    warnings = aprnb.convert(source, tmp_path / "one.gguf").warnings
    assert "general.name is 'phi 3': llama.cpp does not open a file called 'phi3' with this vocabulary" in warnings


@pytest.mark.parametrize(
    ("stated", "name", "owner"),
    [
        ("Owner/Our-Model", "Our-Model", "Owner"),
        ("Our-Model", "Our-Model", None),
        ("/home/someone/checkpoint-500", None, None),
        ("./out", None, None),
        ("../out", None, None),
        ("C:\\models\\x", None, None),
        ("", None, None),
        (7, None, None),
    ],
)
def test_name_or_path_names_a_model_unless_it_is_a_path(pocket_qwen3, sources, tmp_path, stated, name, owner):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": stated}))
    metadata = aprnb.open(folder).metadata
    assert metadata["name"] == (name or "folder")
    assert general(metadata).get("organization") == owner


def test_a_trained_model_names_its_base_and_not_itself_after_it():
    base = as_metadata({**TEXTS, "tags": ["chat"], "languages": ["en"]})
    assert general(derived(base, "mine", "file")) == {
        "name": "mine", "license": "apache-2.0", "license.name": "a name",
        "license.link": "https://example.org/license", "tags": ["chat"], "languages": ["en"],
        "basename": "Our-Model", "size_label": "0.1B", "base_model.count": 1, "base_model.0.name": "Our Model 0.1B",
        "base_model.0.author": "An Author", "base_model.0.version": "v3", "base_model.0.organization": "Owners",
        "base_model.0.description": "Says <b>moo</b>", "base_model.0.url": "https://example.org",
        "base_model.0.doi": "10.1/x", "base_model.0.uuid": "f0e1",
        "base_model.0.repo_url": "https://example.org/repo",
    }  # fmt: skip


def test_the_base_of_a_merged_model_is_in_its_gguf_too(published, tmp_path):
    from aprnb.conversion.apr_model import write_apr_model
    from aprnb.tokenizer.choose import choose_tokenizer

    with aprnb.open(published) as base:
        report = aprnb.check(base)
        tokenizer = choose_tokenizer(base, report.architecture).tokenizer
        path = tmp_path / "mine.apr"
        write_apr_model(
            path, base, report, lambda _, stored, __: stored, replace={}, verify=lambda *_: None, tokenizer=tokenizer
        )
    aprnb.convert(path, tmp_path / "mine.gguf")
    found = general_of(tmp_path / "mine.gguf")
    assert (found["general.name"], found["general.base_model.0.name"]) == ("mine", "Our Model 0.1B")
    assert not {"general.author", "general.quantized_by", "general.url", "general.finetune"} & set(found)


def test_the_card_shows_the_origin_escaped(published):
    report = aprnb.inspect(published)
    stated = report.to_json()["provenance"]
    assert list(stated)[:2] == ["name", "license"]
    assert (stated["file_type"], stated["quantized_by"]) == ("F16", "Somebody")
    assert stated["base_model.0.name"] == "Base"
    text, html = str(report), report.to_html()
    assert "Says <b>moo</b>" in text
    assert "Says <b>moo</b>" not in html
    assert "Says &lt;b&gt;moo&lt;/b&gt;" in html


@pytest.mark.parametrize(
    "stated", [7, [], {"a": {}}, {"A B": "x"}, {"k" * 65: "x"}, {"tags": [1]}, {"x": 1 << 40}, {"x": -1}, {"x.": "y"}]
)
def test_a_provenance_of_another_form_is_left_out(pocket_qwen3, stated, tmp_path):
    metadata = {**aprnb.open(pocket_qwen3).metadata, "provenance": stated}
    values, _ = identity_values(metadata, "file")
    assert sorted(values) == ["general.name", "general.type"]


@pytest.mark.apr
def test_the_real_tool_shows_the_same_name(apr_binary, published, tmp_path):
    aprnb.convert(published, tmp_path / "x.apr")
    command = [str(apr_binary), "inspect", str(tmp_path / "x.apr"), "--json", "--offline"]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert seen["valid"]
    assert "Our Model 0.1B" in json.dumps(seen)


def test_datasets_are_named_in_cards_as_the_hub_names_them():
    """A link to the hub's datasets has `datasets/` before owner and name; a card's `datasets` list has not."""
    link = "https://huggingface.co/datasets/owner/answers"
    stated = {"dataset.count": 1, "dataset.0.repo_url": link, "base_model.count": 1, "base_model.0.name": "./mine"}
    text, _ = card_text(as_metadata(stated))
    assert text is not None
    assert '- "owner/answers"' in text.splitlines()
    found = general_of_card({"datasets": [link], "base_model": "./mine"})
    assert (found["dataset.0.name"], found["dataset.0.repo_url"]) == ("answers", link)
    assert (found["base_model.0.name"], found.get("base_model.0.repo_url")) == ("./mine", None)
