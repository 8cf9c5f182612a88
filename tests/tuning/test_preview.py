"""Rows as tokens: what is shown is what is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import aprnb
from aprnb.errors import UsageProblem
from aprnb.tuning.preview import Preview

ROWS = [
    {"instruction": "Spell fish.", "response": "f i s h"},
    {"instruction": "Crème brûlée 🎉?", "response": "oui <b>"},
]


@pytest.fixture(scope="module")
def shown(pocket_qwen3: Path) -> Preview:
    return aprnb.preview(pocket_qwen3, 2, data=ROWS, val_split=0)


def test_the_parts_are_the_text_and_the_trained_ones_are_the_answer(shown):
    first = shown.rows[0]
    assert "".join(text for text, _ in first.pieces) == (
        "<|im_start|>user\nSpell fish.<|im_end|>\n<|im_start|>assistant\nf i s h<|im_end|>\n"
    )
    assert "".join(text for text, kind in first.pieces if kind == "trained") == "f i s h"
    assert [text for text, kind in first.pieces if kind == "end"] == ["<|im_end|>"]
    assert shown.total == 2


def test_a_character_of_several_tokens_is_one_part(shown):
    second = shown.rows[1]
    text = "".join(text for text, _ in second.pieces)
    assert "Crème brûlée 🎉?" in text
    assert "\ufffd" not in text
    assert len(second.pieces) < len(second.ids)


def test_text_and_html_mark_what_is_trained_and_escape_it(shown):
    assert "<|im_start|>assistant\n⟦f i s h<|im_end|>⟧■" in str(shown)
    assert str(shown).startswith("2 of 2 rows as tokens")
    html = shown.to_html()
    assert "<b>" not in html.replace('<b style="color', "")
    assert html.count('title="end"') == 2
    assert '<mark title="trained"' in html


@pytest.mark.real()
def test_spaces_of_a_sentencepiece_vocabulary_are_kept(real_models):
    text = "a  b c\n d é🎉"
    model = real_models / "gemma-3-270m.gguf"
    shown = aprnb.preview(model, 1, data=[{"text": text}], val_split=0)
    assert "".join(text for text, _ in shown.rows[0].pieces) == f"<bos>{text}<eos>"


def test_the_command_line_shows_rows_and_stops(pocket_qwen3, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    command = ["-m", "aprnb", "finetune", pocket_qwen3, "--data", "rows.jsonl", "--preview", "1", "--json"]
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    found = json.loads(done.stdout)
    assert found["total"] == 1
    assert found["rows"][0]["pieces"][-2] == ["<|im_end|>", "end"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("rows", [0, 101])
def test_another_number_of_rows_is_an_error(pocket_qwen3, rows):
    with pytest.raises(UsageProblem, match="expected 1 to 100"):
        aprnb.preview(pocket_qwen3, rows, data=ROWS)
