"""What a folder says outside config.json, tokenizer.json and weights: each conversion keeps it, or names it as lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

import aprnb
from aprnb import cli
from aprnb.errors import ChatTemplateError
from aprnb_tests.safetensors_bytes import folder_of

GENERATION = {
    "bos_token_id": 824, "eos_token_id": [826, 824], "pad_token_id": 824, "do_sample": True, "temperature": 0.7,
    "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05, "max_length": 77,
    "suppress_tokens": [3, 4],
}  # fmt: skip
SETTINGS = {
    "tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
    "unk_token": None, "add_bos_token": False, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "model_max_length": 333, "padding_side": "left", "clean_up_tokenization_spaces": False, "errors": "replace",
}  # fmt: skip
SPECIAL = {"eos_token": {"content": "<|im_end|>", "lstrip": False, "rstrip": False}, "image_token": "<|im_start|>"}
ADDED = {"<|endoftext|>": 824, "<|im_start|>": 825, "<|im_end|>": 826}
DEFAULT, TOOLS, RAG = "default {{ messages[0].content }}", "tools {{ messages[0].content }}", "rag"
CARD = """---
license: apache-2.0
language:
- en
tags: [chat, code]
pipeline_tag: text-generation
base_model: Qwen/Qwen3-8B
datasets:
- owner/answers
inference: false
---
# A model of ours
"""


def with_files(folder: Path, **changed: Any) -> Path:
    """The folder with each of these files."""
    files = {
        "generation_config.json": GENERATION, "tokenizer_config.json": SETTINGS, "special_tokens_map.json": SPECIAL,
        "added_tokens.json": ADDED, "README.md": CARD, "LICENSE": "ours",
        "chat_template.jinja": DEFAULT, "additional_chat_templates/tool_use.jinja": TOOLS,
        "chat_templates/rag.jinja": RAG, **changed,
    }  # fmt: skip
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder


@pytest.fixture
def plain(pocket_qwen3, sources, tmp_path) -> Path:
    return folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "plain")


@pytest.fixture
def folder(plain) -> Path:
    return with_files(plain)


def converted(source: Path, *targets: Path) -> tuple[Path, list[str]]:
    """The last target, and the warnings of all conversions."""
    warnings: list[str] = []
    for target in targets:
        warnings += aprnb.convert(source, target).warnings
        source = target
    return source, warnings


def gguf_values(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(path).fields.items()}


@pytest.mark.parametrize("way", [("out",), ("x.apr", "out"), ("x.apr", "y.apr", "out"), ("one", "x.apr", "out")])
def test_a_folder_comes_back_with_every_file(folder, way, tmp_path):
    out, warnings = converted(folder, *(tmp_path / name for name in way))
    written = {path.name: path.read_text("utf-8") for path in out.iterdir() if path.suffix in (".json", ".md")}
    assert json.loads(written["generation_config.json"]) == GENERATION
    assert json.loads(written["special_tokens_map.json"]) == SPECIAL
    assert json.loads(written["added_tokens.json"]) == ADDED
    assert written["README.md"] == CARD
    settings = json.loads(written["tokenizer_config.json"])
    assert {key: settings.get(key) for key in SETTINGS} == SETTINGS
    assert warnings == ["files of the folder that are not kept: LICENSE"]


@pytest.mark.parametrize("way", [("out",), ("x.apr", "out")])
def test_transformers_finds_the_named_templates_again(folder, way, tmp_path):
    from transformers import AutoTokenizer

    out, _ = converted(folder, *(tmp_path / name for name in way))
    assert AutoTokenizer.from_pretrained(out).chat_template == {"default": DEFAULT, "rag": RAG, "tool_use": TOOLS}
    expected = AutoTokenizer.from_pretrained(folder)
    texts = ["<|im_start|>user\nWhat is two plus 12? ☕<|im_end|>\n", "Привет, мир", "你好 नमस्ते"]
    again = AutoTokenizer.from_pretrained(out)
    assert [again.encode(text) for text in texts] == [expected.encode(text) for text in texts]
    assert (again.model_max_length, again.padding_side) == (333, "left")


@pytest.mark.parametrize("way", [("x.gguf",), ("x.apr", "x.gguf")])
def test_gguf_has_what_it_has_keys_for_and_the_rest_is_named(folder, way, tmp_path):
    path, warnings = converted(folder, *(tmp_path / name for name in way))
    found = gguf_values(path)
    expected = {
        "tokenizer.ggml.eos_token_id": 826, "tokenizer.ggml.eot_token_id": 824, "tokenizer.ggml.padding_token_id": 824,
        "general.sampling.top_k": 20, "tokenizer.chat_template": DEFAULT, "tokenizer.chat_template.tool_use": TOOLS,
        "tokenizer.chat_template.rag": RAG, "tokenizer.chat_templates": ["rag", "tool_use"],
        "general.license": "apache-2.0", "general.languages": ["en"],
        "general.tags": ["chat", "code", "text-generation"], "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen3-8B", "general.base_model.0.organization": "Qwen",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3-8B", "general.dataset.0.name": "answers",
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    sampling = {"temp": 0.7, "top_p": 0.8, "min_p": 0.05, "penalty_repeat": 1.05}
    for key, value in sampling.items():
        assert found[f"general.sampling.{key}"] == pytest.approx(value)
    lost = [warning for warning in warnings if warning.startswith("GGUF has no key for")]
    assert [warning.removeprefix("GGUF has no key for ") for warning in lost] == [
        "max_length, suppress_tokens of generation_config.json",
        "tokenizer_class, model_max_length, padding_side, clean_up_tokenization_spaces, errors"
        " of tokenizer_config.json",
        "image_token of special_tokens_map.json",
        "the text, inference of README.md",
    ]


def test_a_gguf_gives_a_folder_its_ends_sampling_templates_and_card(folder, tmp_path):
    out, _ = converted(folder, tmp_path / "x.gguf", tmp_path / "out")
    generation = json.loads((out / "generation_config.json").read_text())
    shared = set(GENERATION) - {"max_length", "suppress_tokens"}
    assert {key: generation[key] for key in shared} == {key: GENERATION[key] for key in shared}
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert {each["name"]: each["template"] for each in settings["chat_template"]} == {
        "default": DEFAULT, "rag": RAG, "tool_use": TOOLS,
    }  # fmt: skip
    again, _ = converted(out, tmp_path / "again.gguf")
    before, after = gguf_values(tmp_path / "x.gguf"), gguf_values(again)
    shared = {key for key in before if key.startswith(("general.", "tokenizer.chat"))}
    assert {key: after.get(key) for key in shared} == {key: before[key] for key in shared}


def test_settings_that_do_not_sample_are_not_written_as_sampling(plain, tmp_path):
    """transformers ignores a temperature without do_sample, llama.cpp would not."""
    source = with_files(plain, **{"generation_config.json": {"temperature": 0.7, "eos_token_id": 826}})
    path, warnings = converted(source, tmp_path / "x.gguf")
    assert not any(key.startswith("general.sampling") for key in gguf_values(path))
    assert "temperature of generation_config.json not written: without do_sample true it has no effect" in warnings


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"do_sample": True, "temperature": "0.7"},
         ["temperature of generation_config.json is '0.7', not a number from 0 on; it is not written"]),
        ({"do_sample": True, "temperature": 0.0}, []),
        ({"do_sample": True, "temperature": None}, []),
        ({"eos_token_id": [5, 100000]},
         ["eos_token_id of generation_config.json names 100000: no token has this id"]),
        ({"eos_token_id": "5"}, ["eos_token_id of generation_config.json names '5': no token has this id"]),
        ({"output_attentions": False, "output_hidden_states": False, "use_cache": True}, []),
        ({"use_cache": False}, ["GGUF has no key for use_cache of generation_config.json"]),
    ],
)  # fmt: skip
def test_settings_that_a_gguf_cannot_have_say_why(generation, expected, plain, tmp_path):
    _, warnings = converted(with_files(plain, **{"generation_config.json": generation}), tmp_path / "x.gguf")
    assert [each for each in warnings if "generation_config" in each] == expected


def test_end_tokens_beyond_gguf_keys_are_named(plain, tmp_path):
    source = with_files(plain, **{"generation_config.json": {"eos_token_id": [826, 824, 7, 8]}})
    path, warnings = converted(source, tmp_path / "x.gguf")
    assert gguf_values(path)["tokenizer.ggml.eot_token_id"] == 824  # <|endoftext|>, before ordinary tokens
    assert "GGUF has no key for further end tokens: 7, 8" in warnings


def test_end_tokens_that_a_gguf_states_come_back():
    from aprnb.conversion.generation_settings import further_ends
    from aprnb.tokenizer.end_tokens import stated_end_ids

    metadata = {"tokenizer.eos_token_id": 2, "tokenizer.eot_token_id": 2, "tokenizer.eom_token_id": 1}
    tokens = ["a", "b", "</s>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"]
    keys = {"tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.eom_token_id": 1}
    assert further_ends(metadata, stated_end_ids(metadata, 6), 2, tokens) == (keys, [])
    llama3 = {"hf_generation_config": {"eos_token_id": [5, 4, 3]}}
    keys = {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 4}
    assert further_ends(llama3, stated_end_ids(llama3, 6), 3, tokens) == (keys, [])


@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 10_000])
def test_a_broken_file_is_named_and_the_others_are_read(plain, name, text, tmp_path):
    checkpoint = aprnb.open(with_files(plain, **{name: text}))
    assert [warning for warning in checkpoint.warnings if warning.startswith(f"{name} is not read: ")]
    assert checkpoint.metadata["hf_tokenizer_config"] == SETTINGS
    assert "tokenizer.vocabulary" in checkpoint.metadata


def test_a_broken_tokenizer_leaves_the_other_files_readable(plain):
    checkpoint = aprnb.open(with_files(plain, **{"tokenizer_config.json": "{"}))
    assert any(warning.startswith("the tokenizer of the folder is not read") for warning in checkpoint.warnings)
    assert checkpoint.metadata["hf_generation_config"] == GENERATION
    assert checkpoint.metadata["license"] == "apache-2.0"


def test_code_named_by_the_tokenizers_settings_is_not_kept(plain, tmp_path):
    code = {**SETTINGS, "tokenizer_class": "OurTokenizer", "auto_map": {"AutoTokenizer": ["code.OurTokenizer", None]}}
    out, warnings = converted(with_files(plain, **{"tokenizer_config.json": code}), tmp_path / "out")
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert "auto_map" not in settings
    assert settings["tokenizer_class"] != "OurTokenizer"
    assert any("auto_map" in warning for warning in warnings)


@pytest.mark.parametrize("form", ["list", "object", "chat_template.json"])
def test_templates_in_other_places_are_read(plain, form):
    named = {"default": DEFAULT, "tool_use": TOOLS}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    if form == "chat_template.json":
        (plain / form).write_text(json.dumps({"chat_template": listed}))
        settings = SETTINGS
    else:
        settings = {**SETTINGS, "chat_template": listed if form == "list" else named}
    (plain / "tokenizer_config.json").write_text(json.dumps(settings))
    metadata = aprnb.open(plain).metadata
    assert (metadata["chat_template"], metadata["chat_templates"]) == (DEFAULT, {"tool_use": TOOLS})


def test_a_named_template_is_chosen_by_its_name(folder, tmp_path):
    from aprnb.tokenizer.chat_template import render
    from aprnb.tokenizer.choose import build_tokenizer

    path, _ = converted(folder, tmp_path / "x.apr")
    metadata = aprnb.open(path).metadata
    tokenizer = build_tokenizer(metadata, "qwen3", None, "tool_use").checkpoint_tokenizer
    assert render(tokenizer, [{"role": "user", "content": "hi"}], False) == "tools hi"
    with pytest.raises(ChatTemplateError, match="tool_use"):
        build_tokenizer(metadata, "qwen3", None, "tool_us")


def test_a_merged_model_keeps_the_files(folder, tmp_path):
    from aprnb.conversion.apr_model import write_apr_model
    from aprnb.tokenizer.choose import choose_tokenizer

    with aprnb.open(folder) as base:
        report = aprnb.check(base)
        tokenizer = choose_tokenizer(base, report.architecture).tokenizer
        write_apr_model(
            tmp_path / "m.apr", base, report, lambda _, stored, __: stored, replace={},
            verify=lambda *_: None, tokenizer=tokenizer,
        )  # fmt: skip
        kept = [key for key in base.metadata if key.startswith("hf_") and key not in ("hf_config", "hf_model_card")]
        with aprnb.open(tmp_path / "m.apr") as merged:
            for key in (*kept, "chat_templates"):
                assert merged.metadata[key] == base.metadata[key]


def test_ids_that_only_generation_config_names_are_in_the_gguf(plain, tmp_path):
    """The tokenizer's settings name neither; llama.cpp reads both keys from the tokenizer."""
    with_files(plain, **{"tokenizer_config.json": {"eos_token": "<|im_end|>"}, "special_tokens_map.json": {}})
    for name in ("bos_token_id", "pad_token_id"):
        config = json.loads((plain / "config.json").read_text())
        (plain / "config.json").write_text(json.dumps({**config, name: None}))
    path, _ = converted(plain, tmp_path / "x.gguf")
    values = gguf_values(path)
    assert (values["tokenizer.ggml.bos_token_id"], values["tokenizer.ggml.padding_token_id"]) == (824, 824)
    assert not values["tokenizer.ggml.add_bos_token"]


def test_an_id_of_generation_config_unlike_the_tokenizers_is_named(folder, tmp_path):
    changed = {**GENERATION, "pad_token_id": 825}
    with_files(folder, **{"generation_config.json": changed})
    _, warnings = converted(folder, tmp_path / "x.gguf")
    assert any("padding_token_id, the tokenizer's 824: generation_config.json has 825" in each for each in warnings)


def test_named_templates_without_a_default_are_kept(plain, tmp_path):
    with_files(plain, **{"tokenizer_config.json": {**SETTINGS, "chat_template": [{"name": "rag", "template": "R"}]}})
    for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja", "chat_templates/rag.jinja"):
        (plain / name).unlink()
    target, _ = converted(plain, tmp_path / "out")
    kept = json.loads((target / "tokenizer_config.json").read_text())["chat_template"]
    assert {"name": "rag", "template": "R"} in kept


def test_ends_that_the_tokenizer_does_not_name_are_in_the_gguf(plain, tmp_path):
    with_files(plain, **{"tokenizer_config.json": {"unk_token": None}, "special_tokens_map.json": {}})
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    path, warnings = converted(plain, tmp_path / "x.gguf")
    values = gguf_values(path)
    assert [values[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot")] == GENERATION["eos_token_id"]
    assert not any("end tokens" in warning for warning in warnings)


LATIN = "{# caf\u00e9 #}{{ messages[0].content }}".encode("latin-1")


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "chat_template.json", "additional_chat_templates/tool_use.jinja"]
)
def test_a_template_that_is_not_text_leaves_the_tokenizer(plain, tmp_path, name):
    with_files(plain, **{"chat_template.jinja": DEFAULT, "chat_template.json": "{}"})
    (plain / name).write_bytes(LATIN)
    for target in ("x.apr", "x.gguf", "x"):
        path, warnings = converted(plain, tmp_path / target)
        assert [warning for warning in warnings if warning.startswith(f"{name} is not read: ")], warnings
        with aprnb.open(path) as checkpoint:
            assert checkpoint.metadata["tokenizer.vocabulary"][826] == "<|im_end|>"
            if name != "chat_template.jinja":
                assert checkpoint.metadata["chat_template"] == DEFAULT


def test_a_conversation_needs_the_template_that_is_not_text(plain, capsys):
    """The family's own template does not take its place."""
    with_files(plain)
    (plain / "chat_template.jinja").write_bytes(LATIN)
    assert cli.main(["generate", str(plain), "hi", "--max-new-tokens", "1"]) == 5
    shown = capsys.readouterr().err
    assert "chat_template.jinja is not UTF-8" in shown
    assert "--chat-template" in shown
    assert cli.main(["generate", str(plain), "hi", "--max-new-tokens", "1", "--raw"]) == 0
    assert cli.main(["generate", str(plain), "hi", "--max-new-tokens", "1", "--chat-template", "chatml"]) == 0
    assert any("chat_template.jinja" in warning for warning in aprnb.inspect(plain).warnings)


def test_a_tokenizer_that_gguf_cannot_express_is_named_with_its_kind(plain, tmp_path):
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
    document = json.loads((plain / "tokenizer.json").read_text())
    (plain / "tokenizer.json").write_text(json.dumps({**document, "model": model, "added_tokens": []}))
    path, warnings = converted(plain, tmp_path / "x.gguf")
    assert "the file has no tokenizer: GGUF cannot express the source's, which is Unigram" in warnings
    assert "tokenizer.ggml.tokens" not in gguf_values(path)


AROUND = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
BOS, EOS = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<|im_start|>", "<|im_end|>"))
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


@pytest.mark.parametrize(("around", "flags", "expected"), [
    ([TEXT], {}, []),
    ([TEXT], {"add_bos_token": False, "add_eos_token": False}, []),
    ([BOS, TEXT], {"add_bos_token": True}, []),
    ([BOS, TEXT, EOS], {"add_bos_token": True, "add_eos_token": True}, []),
    (None, {"add_bos_token": False}, []),
    ([TEXT], {"add_bos_token": True}, ["add_bos_token true, and tokenizer.json adds no <|im_start|>"]),
    (None, {"add_eos_token": True}, ["add_eos_token true, and tokenizer.json adds no <|im_end|>"]),
    ([BOS, TEXT], {"add_bos_token": False}, ["add_bos_token false, and tokenizer.json adds <|im_start|>"]),
    ([BOS, TEXT, EOS], {"add_bos_token": True, "add_eos_token": False},
     ["add_eos_token false, and tokenizer.json adds <|im_end|>"]),
    ([TEXT, BOS], {"add_bos_token": True}, ["add_bos_token true, and tokenizer.json adds no <|im_start|>"]),
])  # fmt: skip
def test_flags_that_contradict_the_post_processor_are_named(plain, tmp_path, around, flags, expected):
    """`transformers` 5.24 follows tokenizer.json whatever the flags say, for the classes of Llama, Qwen and Gemma."""
    path = plain / "tokenizer.json"
    steps = [{**AROUND, "single": around}] if around else []
    post = {"type": "Sequence", "processors": [*steps, {"type": "ByteLevel", "use_regex": False}]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": post}))
    named = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
    (plain / "tokenizer_config.json").write_text(json.dumps({**named, **flags}))
    with aprnb.open(plain) as checkpoint:
        found = [each for each in checkpoint.warnings if "add_" in each]
    assert [each.partition(" says ")[2].partition(":")[0] for each in found] == expected
