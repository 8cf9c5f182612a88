"""The forms of rows: recognised by their keys, and what of an answer is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.errors import DataError
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tuning.data.examples import encode_rows
from aprnb.tuning.data.rows import read_rows, split_rows

ASKED = [("user", "Spell fish."), ("assistant", "f i s h")]
USER, BAD, GOOD = (
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "bad"},
    {"role": "assistant", "content": "good"},
)


@pytest.fixture(scope="module")
def tokenizer(pocket_qwen3: Path) -> Any:
    return build_tokenizer(dict(aprnb.open(pocket_qwen3).metadata), "qwen3").tokenizer


def turns(row: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in row.messages]


def trained_text(row: Any, tokenizer: Any) -> tuple[str, str]:
    """The text of the tokens that have a label, and of all tokens."""
    [example] = encode_rows(read_rows([row]).rows, tokenizer, 512).examples
    return tokenizer.decode(example.input_ids[example.labels_mask]), tokenizer.decode(example.input_ids)


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"weight": 0, "train": False}])
def test_an_answer_of_weight_zero_is_context_only(tokenizer, mark):
    row = {"messages": [USER, {**BAD, **mark}, USER, {**GOOD, "weight": 1}, USER, {**BAD, **mark}]}
    trained, text = trained_text(row, tokenizer)
    assert trained == "good<|im_end|>"
    assert text.count("bad") == 1  # what follows the last trained answer has no influence and is left out
    assert not read_rows([row]).warnings


def test_a_conversation_of_which_nothing_is_trained_is_left_out(tokenizer):
    rows = [{"messages": [USER, {**BAD, "weight": 0}]}, {"messages": [USER, GOOD]}]
    found = encode_rows(read_rows(rows).rows, tokenizer, 512)
    assert (len(found.examples), found.rows_without_labels) == (1, 1)


def test_weights_are_part_of_the_rows_hash_and_survive_being_stored():
    plain, weighted = (read_rows([{"messages": [USER, {**BAD, **mark}, USER, GOOD]}]) for mark in ({}, {"weight": 0}))
    assert plain.sha256 != weighted.sha256
    stored = b"".join(weighted.lines())
    assert read_rows(stored.decode()).rows[0].messages == weighted.rows[0].messages
    # the hash of rows without weights is what it was before there were weights
    assert json.loads(next(plain.lines())) == {"messages": [USER, BAD, USER, GOOD]}


def test_conversations_that_differ_in_weights_only_land_on_one_side():
    rows = read_rows([{"messages": [USER, {**GOOD, "weight": at % 2}]} for at in range(6)] + [{"messages": [BAD]}]).rows
    sides = [{row.key for row in side} for side in split_rows(rows, 0.5, 1)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({**BAD, "weight": 0.5}, "message 2 has weight '0.5', not 0 or 1"),
        ({**BAD, "weight": "0"}, "message 2 has weight '0', not 0 or 1"),
        ({**BAD, "weight": [0]}, r"message 2 has weight '\[0\]', not 0 or 1"),
        ({**BAD, "train": 0}, "message 2 has train '0', not true or false"),
        ({**BAD, "train": True, "weight": 0}, "message 2 has weight 0 and train True, which contradict each other"),
        ({**USER, "weight": 1}, "message 2 has weight 1 and role user: only answers are trained"),
    ],
)
def test_another_weight_is_an_error_that_names_it(message, reason):
    with pytest.raises(DataError, match=rf"^data row 1: {reason}"):
        read_rows([{"messages": [USER, message]}])


FORMS = {
    "alpaca": {"instruction": "Spell fish.", "input": "", "output": "f i s h"},
    "instruction/response": {"instruction": "Spell fish.", "response": "f i s h"},
    "prompt/completion": {"prompt": "Spell fish.", "completion": "f i s h"},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Spell fish."}, {"from": "gpt", "value": "f i s h"}]},
    "messages": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Spell "}, {"type": "text", "text": "fish."}]},
            {"role": "assistant", "content": "f i s h", "tool_calls": None},
        ],
        "tools": [],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_recognised_by_its_keys(form):
    found = read_rows([{**FORMS[form], "id": 7}])
    assert turns(found.rows[0]) == ASKED
    assert found.warnings == ("data: unused keys: 'id'",)
    assert found.description == f"{form}, from data"


def test_the_plan_says_the_form_and_the_source(pocket_qwen3, tmp_path):
    path = tmp_path / "fish.jsonl"
    path.write_text(json.dumps(FORMS["alpaca"]) + "\n" + json.dumps(FORMS["ShareGPT"]))
    plan = aprnb.plan(pocket_qwen3, data=path, val_split=0)
    assert plan.to_json()["data"]["rows_from"] == "alpaca and ShareGPT, from fish.jsonl"
    assert "alpaca and ShareGPT, from fish.jsonl; 0 without a label" in str(plan)


def test_prompt_and_completion_may_be_messages_of_which_the_completion_is_trained():
    row = {"prompt": [USER, GOOD, USER], "completion": [BAD], "system": "S"}
    [found] = read_rows([row]).rows
    assert [(turn.role, turn.trained) for turn in found.messages if turn.role != "user"] == [
        ("system", True), ("assistant", False), ("assistant", True),
    ]  # fmt: skip


def test_a_sharegpt_row_may_have_a_system_text_and_roles_of_messages():
    row = {"system": "S", "conversations": [{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}]}
    assert turns(read_rows([row]).rows[0]) == [("system", "S"), ("user", "a"), ("assistant", "b")]


def test_a_developer_turn_is_a_system_turn_unless_the_template_knows_the_role(tokenizer):
    row = {"messages": [{"role": "developer", "content": "x"}, USER, GOOD]}
    assert trained_text(row, tokenizer)[1].startswith("<|im_start|>system\nx<|im_end|>")
    known, tokenizer.chat_template = tokenizer.chat_template, "{# developer #}" + tokenizer.chat_template
    try:
        assert trained_text(row, tokenizer)[1].startswith("<|im_start|>developer\nx<|im_end|>")
    finally:
        tokenizer.chat_template = known


REFUSED = {
    "prompt, chosen, rejected": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "a preference row", "completion"),
    "other names": (
        {"question": "a", "answer": "b"}, "its keys are 'question', 'answer'",
        "give --columns instruction=question,response=answer",
    ),
    "answer": ({"instruction": "a", "answer": "b"}, "no response, but a key 'answer'", "a row is"),
    "nothing": ({}, "its keys are none", "a row is"),
    "two answers": ({"instruction": "a", "output": "b", "response": "c"}, "both response and output", "a row is"),
    "tools of an instruction": ({**FORMS["alpaca"], "tools": [{"name": "f"}]}, "the row has 'tools'", "remove"),
    "a class": ({"text": "a", "label": 1}, "a row of a classification", "as the response"),
    "images": ({**FORMS["alpaca"], "images": ["x.png"]}, "the row has 'images'", "remove the rows"),
    "history": ({**FORMS["alpaca"], "history": [["a", "b"]]}, "the row has 'history'", "remove the rows"),
    "weight of a row": ({**FORMS["alpaca"], "weight": 2}, "the row has 'weight'", "to the messages"),
    "label": ({**FORMS["prompt/completion"], "label": False}, "the row has 'label'", "good answers only"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "part 1 of content of message 1 is of type 'image_url', not a text part", "a row is",
    ),
    "a speaker": ({"conversations": [{"from": "bard", "value": "x"}]}, "has from 'bard'", "a row is"),
    "an empty answer": ({**FORMS["alpaca"], "output": " "}, "empty output", "a row is"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_of_another_form_is_named_with_a_way_out(name):
    row, reason, action = REFUSED[name]
    with pytest.raises(DataError, match=f"^data row 1: .*{reason}(.|\n)*→ .*{action}"):
        read_rows([row])
