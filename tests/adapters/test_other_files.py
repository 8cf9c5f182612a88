"""Tokenizer and template files in an adapter's folder: named where the base has others, silent where they are equal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapters.test_targets import QUERIES, written

import aprnb
from aprnb import cli
from aprnb_tests.safetensors_bytes import folder_of

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


@pytest.fixture
def base(pocket_qwen3: Path, sources: Path, tmp_path: Path) -> Path:
    return folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return written(base, tmp_path / "adapter", QUERIES, target_modules=["q_proj"])


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def copied(base: Path, adapter: Path) -> None:
    """As trainers save the tokenizer along with the adapter."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, adapter / name)


def warnings(base: Path, adapter: Path, tmp_path: Path) -> tuple[str, ...]:
    """Those of the merge, which are also those of the conversion."""
    merged = aprnb.merge(base, adapter, tmp_path / "merged.apr", force=True).warnings
    assert aprnb.convert(adapter, tmp_path / "x.gguf", base=base, force=True).warnings == merged
    return merged


def test_the_tokenizer_of_the_base_gives_no_warning_in_any_format(base, adapter, tmp_path):
    copied(base, adapter)
    change(adapter / "tokenizer_config.json", model_max_length=77, padding_side="left")
    aprnb.convert(base, tmp_path / "base.apr")
    aprnb.convert(base, tmp_path / "base.gguf")
    for name in ("base", "base.apr", "base.gguf"):
        assert warnings(tmp_path / name, adapter, tmp_path) == ()


def test_a_template_of_its_own_is_named_and_can_be_used(base, adapter, tmp_path, capsys):
    copied(base, adapter)
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    (warning,) = warnings(base, adapter, tmp_path)
    assert "not used" in warning
    assert "chat_template.jinja" in warning
    assert "tokenizer.json" not in warning
    arguments = ["merge", str(base), str(adapter), "--output", str(tmp_path / "m.apr")]
    assert cli.main([*arguments, "--chat-template", str(adapter / "chat_template.jinja")]) == 0
    with aprnb.open(tmp_path / "m.apr") as merged:
        assert merged.metadata["chat_template"] == TEMPLATE


def test_a_template_inside_the_settings_is_named_with_their_file(base, adapter, tmp_path):
    copied(base, adapter)
    change(adapter / "tokenizer_config.json", chat_template=TEMPLATE)
    (warning,) = warnings(base, adapter, tmp_path)
    assert "tokenizer_config.json" in warning


@pytest.mark.parametrize("ending", ["", ".apr", ".gguf"])
def test_a_tokenizer_with_another_token_is_named(base, adapter, tmp_path, ending):
    copied(base, adapter)
    document = json.loads((adapter / "tokenizer.json").read_text())
    added = {**document["added_tokens"][-1], "id": 1000, "content": "<|new|>"}
    (adapter / "tokenizer.json").write_text(
        json.dumps({**document, "added_tokens": [*document["added_tokens"], added]})
    )
    if ending:
        aprnb.convert(base, tmp_path / f"base{ending}")
    (warning,) = warnings(tmp_path / f"base{ending}", adapter, tmp_path)
    assert "tokenizer.json" in warning


def test_another_end_token_and_other_generation_settings_are_named(base, adapter, tmp_path):
    copied(base, adapter)
    change(adapter / "tokenizer_config.json", eos_token="<|endoftext|>")
    (adapter / "generation_config.json").write_text(json.dumps({"temperature": 0.1}))
    (warning,) = warnings(base, adapter, tmp_path)
    assert "tokenizer_config.json, generation_config.json" in warning


def test_a_file_that_cannot_be_read_is_named(base, adapter, tmp_path):
    (adapter / "tokenizer.json").write_text("{")
    (warning,) = warnings(base, adapter, tmp_path)
    assert "tokenizer.json" in warning


def test_the_command_shows_warnings_in_its_text_and_in_its_document(base, adapter, tmp_path, capsys):
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    assert cli.main(["merge", str(base), str(adapter), "--output", str(tmp_path / "m.apr")]) == 0
    assert "warning: files of the adapter's folder" in capsys.readouterr().out
    assert cli.main(["merge", str(base), str(adapter), "--output", str(tmp_path / "n.apr"), "--json"]) == 0
    assert "chat_template.jinja" in json.loads(capsys.readouterr().out)["warnings"][0]
