"""The ids at which generation stops, as checkpoints name them in several places."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import aprnb
from aprnb.errors import TokenizerError
from aprnb.tokenizer.chat_template import CHATML, TEMPLATES, render_all
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tokenizer.end_tokens import answered_turn, checkpoint_end_ids, end_of_turn, stated_end_ids
from aprnb_tests.gguf_bytes import STRING, U32, pair, whole
from aprnb_tests.modelfile import read_modelfile

GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ALPACA = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
USERS_ONLY = "{% for m in messages %}{{ raise_exception('no') if m.role == 'assistant' }}{{ m.content }}{% endfor %}"
TOKENS = ("<eos>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>", "<|im_end|>", "<|eot_id|>", "<", "<|end")


def tokenizer(template: str | None, eos: str) -> Any:
    """Added tokens with their place in `TOKENS` as ids."""
    added = {number: SimpleNamespace(content=text) for number, text in enumerate(TOKENS)}
    return SimpleNamespace(
        chat_template=template, special_tokens_map={"eos_token": eos, "bos_token": "<bos>"}, added_tokens_decoder=added
    )


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (GEMMA, "<eos>", "<end_of_turn>"),
        (PHI3, "<|endoftext|>", "<|end|>"),
        (LLAMA2, "</s>", "</s>"),
        (CHATML, "<|endoftext|>", "<|im_end|>"),
        (TEMPLATES["llama3"], "<|endoftext|>", "<|eot_id|>"),
        (TEMPLATES["zephyr"], "</s>", "</s>"),
        (ALPACA, "</s>", None),
        (USERS_ONLY, "</s>", None),
    ],
    ids=["gemma", "phi3", "llama2", "chatml", "llama3", "zephyr", "no end token", "a template that rejects it"],
)
def test_the_end_of_turn_is_the_token_that_a_template_writes_after_an_answer(
    template: str, eos: str, expected: str | None
) -> None:
    made = tokenizer(template, eos)
    found = end_of_turn(*render_all(made, [answered_turn()]), made)
    assert found == (None if expected is None else TOKENS.index(expected))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"tokenizer.eos_token_id": 3}, {3}),
        ({"hf_config": {"eos_token_id": [5, 6]}, "tokenizer.eos_token_id": 6}, {5, 6}),
        # Llama 3.1 Instruct: <|end_of_text|>, <|eom_id|> and <|eot_id|>
        ({"hf_config": {"eos_token_id": 9}, "hf_generation_config": {"eos_token_id": [1, 8, 9]}}, {1, 8, 9}),
        ({"tokenizer.eos_token_id": 1, "tokenizer.eot_token_id": 9, "tokenizer.eom_token_id": 8}, {1, 8, 9}),
        ({"hf_config": {"eos_token_id": None}, "hf_generation_config": {}}, set()),
        ({"hf_config": {"eos_token_id": [10, -1, True, "2", 2.0, [3], None, 4]}}, {4}),
        ({"hf_config": "text", "hf_generation_config": [1]}, set()),
        ({}, set()),
    ],
)
def test_the_end_ids_are_the_union_of_what_the_metadata_name_inside_the_vocabulary(
    metadata: dict[str, Any], expected: set[int]
) -> None:
    assert stated_end_ids(metadata, 10) == expected


# From the published files: the token after an answer, and its id.
PUBLISHED = {"qwen3": ("<|im_end|>", 151645), "gemma3": ("<end_of_turn>", 106)}


@pytest.mark.real
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_template_ends_an_answer_with_its_published_token(real_models: Path, name: str) -> None:
    made = build_tokenizer({}, name, real_models / "tokenizers" / name).checkpoint_tokenizer
    found = end_of_turn(*render_all(made, [answered_turn()]), made)
    assert (made.convert_ids_to_tokens(found or 0), found) == PUBLISHED[name]


def test_the_end_ids_of_a_gguf_file_have_keys_that_apr_keeps(tmp_path: Path) -> None:
    keys = {"eos": 7, "eot": 9, "eom": 8}
    pairs = [pair(f"tokenizer.ggml.{name}_token_id", U32, number) for name, number in keys.items()]
    path = tmp_path / "x.gguf"
    path.write_bytes(whole([pair("general.architecture", STRING, "llama"), *pairs]))
    metadata = aprnb.open(path).metadata
    assert stated_end_ids(metadata, 128) == {7, 8, 9}
    assert metadata["tokenizer.eot_token_id"] == 9


# Configs next to a file


@pytest.fixture
def pocket(pocket_qwen3: Path, tmp_path: Path) -> Path:
    """A copy; its own metadata name 826 alone."""
    return Path(shutil.copyfile(pocket_qwen3, tmp_path / "x.apr"))


def ends(path: Path, config: Any = None) -> list[int]:
    with aprnb.open(path) as checkpoint:
        return sorted(checkpoint_end_ids(checkpoint, checkpoint.architecture.vocab_size, config))


def write(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["generation_config.json", "x.generation_config.json"])
@pytest.mark.parametrize("ending", ["apr", "gguf"])
def test_a_generation_config_next_to_the_file_names_ends(pocket: Path, name: str, ending: str) -> None:
    path = aprnb.convert(pocket, pocket.with_suffix(".gguf")).path if ending == "gguf" else pocket
    write(pocket.with_name(name), eos_token_id=[824, 825, 5000])
    assert ends(path) == [824, 825, 826]


@pytest.mark.parametrize("name", ["config.json", "x.config.json"])
def test_a_config_next_to_the_file_names_ends_if_it_is_the_models(pocket: Path, sources: Path, name: str) -> None:
    config = json.loads((sources / "qwen3" / "config.json").read_text())
    write(pocket.with_name(name), **{**config, "eos_token_id": [824]})
    write(pocket.with_name("generation_config.json"), eos_token_id=825)
    assert ends(pocket) == [824, 825, 826]
    write(pocket.with_name(name), **{**config, "eos_token_id": [824], "hidden_size": 64})
    assert ends(pocket) == ([826] if name == "config.json" else [825, 826])


def test_the_files_own_generation_config_goes_before_one_next_to_it(pocket_qwen3: Path, tmp_path: Path) -> None:
    folder = aprnb.convert(pocket_qwen3, tmp_path / "folder").path
    write(folder / "generation_config.json", eos_token_id=[824])
    path = aprnb.convert(folder, tmp_path / "x.apr").path
    write(tmp_path / "generation_config.json", eos_token_id=[825])
    assert ends(path) == [824, 826]


def test_a_generation_config_that_is_not_json_is_named(pocket: Path) -> None:
    pocket.with_name("generation_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"generation_config\.json"):
        ends(pocket)


def test_every_way_out_of_a_file_keeps_the_ends_next_to_it(pocket: Path, tmp_path: Path) -> None:
    write(pocket.with_name("generation_config.json"), eos_token_id=[826, 824])
    out = tmp_path / "out"
    out.mkdir()
    aprnb.convert(pocket, out / "x.gguf", modelfile=True)
    aprnb.convert(pocket, out / "folder")
    assert ends(out / "x.gguf") == ends(out / "folder") == [824, 826]
    assert read_modelfile(out / "Modelfile")["PARAMETER stop"] == ["<|im_end|>", "<|endoftext|>"]
    model, _ = aprnb.load(pocket, device="cpu")
    assert model.generation_config.eos_token_id == [824, 826]
