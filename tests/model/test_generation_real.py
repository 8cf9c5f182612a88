"""Published models answer as llama.cpp lets them answer, greedily and from the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.tokenizer.end_tokens import answered_turn, end_of_turn

pytestmark = pytest.mark.real

QUESTIONS = ("Write a Python function that adds two numbers.", "What is 17 + 25? Answer with the number only.")
CLEAR = 0.1
"""A gap between the two best log-probabilities below which rounding may decide; figures differ by up to 5e-3."""
NEW = 24


@pytest.fixture(scope="module")
def qwen(real_models: Path) -> tuple[Path, Any, Any]:
    path = real_models / "qwen2.5-coder-0.5b-instruct.gguf"
    return path, *aprnb.load(path, device="cpu", dtype="float32")


def test_greedy_answers_are_those_of_llama_cpp(qwen: Any, llama_cpp: Any) -> None:
    path, model, tokenizer = qwen
    with llama_cpp(path) as judge:
        for question in QUESTIONS:
            ours = aprnb.generate(model, tokenizer, question, max_new_tokens=NEW)
            ids = tokenizer(ours.prompt, add_special_tokens=False).input_ids
            assert ids == judge.tokenize(ours.prompt)
            theirs = judge.greedy(ids, NEW)
            content = [number for number in ours.ids if number != ours.stop_id]
            length = min(len(content), len(theirs))
            differs = next((at for at in range(length) if content[at] != theirs[at]), None)
            if differs is None:
                assert len(content) == len([number for number in theirs if number != ours.stop_id])
            else:
                first, second = sorted(judge.log_probabilities(ids + theirs[:differs]).values(), reverse=True)[:2]
                assert first - second < CLEAR


def test_an_answer_ends_at_the_end_of_turn(qwen: Any) -> None:
    _, model, tokenizer = qwen
    found = aprnb.generate(model, tokenizer, QUESTIONS[1], max_new_tokens=NEW)
    assert (found.text, found.stop_reason, found.stop_text) == ("42", "eos", "<|im_end|>")


def test_a_stop_text_of_several_tokens_cuts_the_answer(qwen: Any) -> None:
    _, model, tokenizer = qwen
    found = aprnb.generate(model, tokenizer, QUESTIONS[0], max_new_tokens=NEW, stop="simple Python")
    assert (found.text, found.stop_text) == ("Here's a ", "simple Python")


# <|eot_id|> is 128009 in the published Llama 3.1 vocabulary.
@pytest.mark.parametrize(("name", "template", "expected"), [("llama3_1", "llama3", 128009)])
def test_the_end_of_turn_of_a_built_in_template(real_models: Path, name: str, template: str, expected: int) -> None:
    from aprnb.tokenizer.chat_template import render_all
    from aprnb.tokenizer.choose import build_tokenizer

    folder = real_models / "tokenizers" / name
    tokenizer = build_tokenizer({}, "llama", folder, template).checkpoint_tokenizer
    assert end_of_turn(*render_all(tokenizer, [answered_turn()]), tokenizer) == expected
