"""Rows with tools and thinking, plain texts, tokens; other columns, what is trained, and what is too long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprnb
from aprnb.errors import DataError, UsageProblem
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tuning.data.example import Example
from aprnb.tuning.data.examples import encode_rows
from aprnb.tuning.data.fitting import fitted
from aprnb.tuning.data.row import TokenRow
from aprnb.tuning.data.rows import read_rows

TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}
{{- m.content }}
{%- for call in m.tool_calls or [] %}{{ call.function.name + call.function.arguments | tojson }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
ASK, SUN = {"role": "user", "content": "Rome?"}, {"role": "assistant", "content": "Sun."}
TALK = [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "25"}, SUN]


@pytest.fixture()
def tokenizer(pocket_qwen3: Path) -> Any:
    found = build_tokenizer(dict(aprnb.open(pocket_qwen3).metadata), "qwen3").tokenizer
    found.chat_template = TEMPLATE
    return found


def marked(example: Example, tokenizer: Any) -> str:
    """The example's text, labelled tokens in ⟦⟧."""
    parts = zip(example.input_ids, example.labels_mask, strict=True)
    text = "".join(f"⟦{tokenizer.decode([i])}⟧" if label else tokenizer.decode([i]) for i, label in parts)
    return text.replace("⟧⟦", "")


def trained(row: Any, tokenizer: Any, **options: Any) -> str:
    [example] = encode_rows(read_rows([row]).rows, tokenizer, 512, **options).examples
    return marked(example, tokenizer)


# ---- tools and thinking


def test_a_call_and_the_answer_after_it_are_trained_and_what_the_tool_said_is_not(tokenizer):
    text = trained({"messages": TALK, "tools": [{"type": "function", "function": TOOL}]}, tokenizer)
    assert text.startswith('<|im_start|>system\n[{"type": "function", "function": {"name": "weather", ')
    assert text.endswith(
        '<|im_start|>user\nRome?<|im_end|>\n<|im_start|>assistant\n⟦weather{"city": "Rome"}<|im_end|>⟧\n'
        "<|im_start|>tool\n25<|im_end|>\n<|im_start|>assistant\n⟦Sun.<|im_end|>⟧\n"
    )


def test_tools_and_calls_may_be_bare_text_or_sharegpt(tokenizer):
    openai = {"messages": TALK, "tools": [{"type": "function", "function": TOOL}]}
    called = {**TALK[1], "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}
    bare = {"messages": [ASK, called, *TALK[2:]], "tools": json.dumps([TOOL])}
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "Rome?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
            {"from": "observation", "value": "25"},
            {"from": "gpt", "value": "Sun."},
        ],
        "tools": json.dumps([TOOL]),
    }
    assert len({trained(row, tokenizer) for row in (openai, bare, sharegpt)}) == 1


def test_keys_that_a_table_added_to_tools_are_left_out():
    [row] = read_rows([{"messages": TALK, "tools": [{**TOOL, "strict": None, "parameters": {"type": None}}]}]).rows
    assert row.tools == ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_thinking_is_trained_under_each_name(tokenizer, name):
    text = trained({"messages": [ASK, {**SUN, name: "Hot."}]}, tokenizer)
    assert text.endswith("assistant\n⟦<think>Hot.</think>Sun.<|im_end|>⟧\n")


@pytest.mark.parametrize(
    ("row", "lost"),
    [
        ({"messages": TALK, "tools": [TOOL]}, "the tool 'weather'"),
        ({"messages": TALK[:2]}, "the call of 'weather'"),
        ({"messages": [ASK, {**SUN, "thinking": "Hot."}]}, r"the answer's thinking \(reasoning_content\)"),
    ],
)
def test_what_the_template_does_not_write_is_an_error(tokenizer, row, lost):
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + m.content + eos_token }}{% endfor %}"
    with pytest.raises(DataError, match=f"^data row 1: the chat template does not write {lost}"):
        trained(row, tokenizer)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": TALK, "tools": [{"description": "x"}]}, "name of tool 1 is null, not text"),
        ({"messages": TALK, "tools": "[x"}, "tools is text that is not JSON"),
        ({"messages": TALK, "tools": {"a": 1}}, "tools is object, not a list"),
        ({"messages": [ASK, {**SUN, "tool_calls": [{"name": "f", "arguments": "7"}]}]}, "is number, not an object"),
        ({"messages": [ASK, {**SUN, "tool_calls": [{"name": "f", "arguments": {"a": "\ud800"}}]}]}, "half a surrogate"),
        ({"messages": [{**ASK, "tool_calls": [CALL]}, SUN]}, "message 1 has tool calls or thinking and role user"),
        ({"messages": [ASK, {**SUN, "thinking": "a", "reasoning": "b"}]}, "thinking and reasoning, which differ"),
        ({"messages": [ASK, {"role": "assistant", "content": "", "thinking": "a"}]}, "message 2 is an empty answer"),
    ],
)
def test_tools_and_thinking_that_cannot_be_read_are_named(row, reason):
    with pytest.raises(DataError, match=f"^data row 1: .*{reason}"):
        read_rows([row])


def test_tools_and_thinking_are_stored_and_make_rows_different():
    rows = [{"messages": TALK, "tools": [TOOL]}, {"messages": TALK}, {"messages": [ASK, {**SUN, "thinking": "x"}]}]
    found = read_rows(rows)
    assert len({row.key for row in found.rows}) == 3
    assert read_rows(b"".join(found.lines()).decode()).sha256 == found.sha256


@pytest.mark.real()
def test_a_published_template_writes_what_transformers_writes(real_models: Path):
    path = real_models / "qwen2.5-coder-0.5b-instruct.gguf"
    tokenizer = build_tokenizer(dict(aprnb.open(path).metadata), "qwen2").tokenizer
    [row] = read_rows([{"messages": TALK, "tools": [TOOL]}]).rows
    [example] = encode_rows([row], tokenizer, 4_096).examples
    messages = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [row.messages[1].more["tool_calls"][0]]},
        *TALK[2:],
    ]
    expected = tokenizer.apply_chat_template(messages, tools=list(row.tools), tokenize=False)
    assert tokenizer.decode(example.input_ids) == expected
    assert marked(example, tokenizer).count("⟦") == 2


# ---- plain text and tokens


def test_a_plain_text_is_trained_whole_with_an_end_and_needs_no_template(tokenizer):
    tokenizer.chat_template = None
    [example] = encode_rows(read_rows([{"text": "One two.", "id": 3}]).rows, tokenizer, 512).examples
    assert tokenizer.decode(example.input_ids) == "One two.<|im_end|>"
    assert example.labels_mask.tolist() == [False] + [True] * (len(example.input_ids) - 1)
    assert read_rows([{"text": "a"}]).description == "plain text, from data"


@pytest.mark.real()
def test_a_plain_text_has_the_bos_that_its_tokenizer_adds(real_models: Path):
    path = real_models / "gemma-3-270m.gguf"
    tokenizer = build_tokenizer(dict(aprnb.open(path).metadata), "gemma3").tokenizer
    [example] = encode_rows(read_rows([{"text": "a"}]).rows, tokenizer, 512).examples
    assert example.input_ids.tolist() == [*tokenizer("a").input_ids, tokenizer.eos_token_id]
    assert example.input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [False, True, True, True]),
        ({"labels": [-100, -100, 7, 2]}, [False, False, True, True]),
        ({"completion_mask": [0, 0, 0, 1]}, [False, False, False, True]),
        ({"labels": [5, 6, 7, 2], "attention_mask": [1, 1, 1, 1]}, [False, True, True, True]),
    ],
)
def test_tokens_are_used_as_they_are(tokenizer, more, expected):
    [example] = encode_rows(read_rows([{"input_ids": [5, 6, 7, 2], **more}]).rows, tokenizer, 512).examples
    assert example.input_ids.tolist() == [5, 6, 7, 2]
    assert example.labels_mask.tolist() == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": [5]}, "input_ids has 1 tokens"),
        ({"input_ids": [5, -1]}, "no token"),
        ({"input_ids": [5, 1 << 70]}, "no token"),
        ({"input_ids": [5, 0.5]}, "not whole numbers"),
        ({"input_ids": "abc"}, "input_ids is string, not a list"),
        ({"input_ids": [5, 6], "labels": [6]}, "labels has 1 values for 2 tokens"),
        ({"input_ids": [5, 6], "labels": [-100, 7]}, r"labels\[1\] is 7, but the token there is 6(.|\n)*do not shift"),
        ({"input_ids": [5, 6], "attention_mask": [0, 1]}, "attention_mask marks padding"),
    ],
)
def test_tokens_that_do_not_fit_together_are_named(row, reason):
    with pytest.raises(DataError, match=f"^data row 1: .*{reason}"):
        read_rows([row])


def test_tokens_of_another_tokenizer_are_an_error_and_missing_ends_a_warning(tokenizer):
    with pytest.raises(DataError, match="token 151,935 is not one of this tokenizer's"):
        encode_rows(read_rows([{"input_ids": [5, 151_935]}]).rows, tokenizer, 512)
    found = encode_rows(read_rows([{"input_ids": [5, 6]}]).rows, tokenizer, 512)
    assert found.warnings == ("the 1 tokenised row(s) train no end token: the model may never stop",)


def test_kinds_may_be_mixed_and_are_stored(tokenizer):
    rows = [{"text": "a b"}, {"messages": [ASK, SUN]}, {"input_ids": [5, 6], "labels": [-100, 6]}]
    found = read_rows(rows)
    assert [example.origin for example in encode_rows(found.rows, tokenizer, 512).examples] == [
        "data row 1", "data row 2", "data row 3",
    ]  # fmt: skip
    again = read_rows(b"".join(found.lines()).decode())
    assert again.sha256 == found.sha256
    assert isinstance(again.rows[2], TokenRow)
    assert again.rows[2].labels_mask.tolist() == [False, True]


# ---- columns


def test_columns_have_other_names():
    rows = [{"q": "a", "a": "b", "hint": "h", "instruction": "not this"}, {"q": "c", "a": "d"}]
    found = read_rows(rows, columns={"instruction": "q", "response": "a", "system": "hint"})
    assert [[turn.content for turn in row.messages] for row in found.rows] == [["h", "a", "b"], ["c", "d"]]
    assert not found.warnings
    turns = [{"who": "user", "what": "a"}, {"who": "assistant", "what": "b"}]
    columns = {"messages": "dialog", "role": "who", "content": "what"}
    assert [turn.content for turn in read_rows([{"dialog": turns}], columns=columns).rows[0].messages] == ["a", "b"]


def test_a_column_that_is_not_there_and_a_name_that_no_row_has_are_errors():
    with pytest.raises(DataError, match="no column 'x', which --columns reads as instruction; its keys are 'q'"):
        read_rows([{"q": "a"}], columns={"instruction": "x"})
    with pytest.raises(UsageProblem, match=r"--columns names 'instructoin' \(did you mean instruction\?\)"):
        read_rows([{"q": "a"}], columns={"instructoin": "q"})


def test_the_plan_takes_columns_from_every_side(pocket_qwen3, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("q,a\nSpell fish.,f i s h\nSpell cow.,c o w\n")
    plans = [aprnb.plan(pocket_qwen3, data=path, columns=columns).to_json() for columns in
             ("instruction=q, response=a", {"instruction": "q", "response": "a"})]  # fmt: skip
    assert plans[0]["data"] == plans[1]["data"]
    assert plans[0]["recipe"]["columns"] == {"instruction": "q", "response": "a"}
    with pytest.raises(UsageProblem, match="--columns 'instruction'; expected name=column"):
        aprnb.plan(pocket_qwen3, data=path, columns="instruction")


# ---- what is trained, and what is too long


def test_only_the_last_answer_or_everything_is_trained(tokenizer):
    row = {"messages": [ASK, {"role": "assistant", "content": "Rain."}, ASK, SUN]}
    last, everything = (trained(row, tokenizer, train_on=which) for which in ("last", "everything"))
    assert last.count("⟦") == 1
    assert last.endswith("⟦Sun.<|im_end|>⟧\n")
    assert everything.startswith("<|im_start|>⟦user")
    assert everything.endswith("<|im_end|>\n⟧")


def example(mask: str) -> Example:
    """Tokens 10, 11, …; "x" is trained, "e" is a trained end."""
    marks = np.array([sign in "xe" for sign in mask])
    ends = tuple(at for at, sign in enumerate(mask) if sign == "e")
    return Example(np.arange(10, 10 + len(mask), dtype=np.int32), marks, "row", ends)


CUTS = [
    # what fits stays; of the rest the head goes, and an answer whose beginning went with it is context
    ("..xe", 4, "truncate-prompt", ["..xe"]),
    ("....xe", 4, "truncate-prompt", ["..xe"]),
    ("..xxe..xe", 5, "truncate-prompt", ["...xe"]),
    ("..xxxe", 5, "truncate-prompt", [".xxxe"]),
    ("..xxxe", 4, "truncate-prompt", []),
    # a row without a prompt is split, and so is any with "split"; pieces overlap by the token that predicts the next
    (".xxxxe", 4, "truncate-prompt", [".xxx", ".xe"]),
    ("....xe", 4, "split", [".xe"]),
    ("..xxxe", 4, "split", ["..xx", ".xe"]),
    ("....xe", 4, "drop", []),
]


@pytest.mark.parametrize(("mask", "longest", "too_long", "expected"), CUTS)
def test_rows_that_are_too_long(mask, longest, too_long, expected):
    whole = example(mask)
    kept = fitted(whole, longest, too_long, bos_id=None)
    shown = ["".join("e" if at in one.ends else ".x"[int(one.labels_mask[at])] for at in range(len(one.input_ids)))
             for one in kept]  # fmt: skip
    assert shown == expected


def test_a_bos_stays_in_front_of_the_tail():
    [kept] = fitted(example("..xxxe"), 5, "truncate-prompt", bos_id=10)
    assert kept.input_ids.tolist() == [10, 12, 13, 14, 15]
    assert kept.labels_mask.tolist() == [False, True, True, True, True]
    assert fitted(example("..xxxe"), 4, "truncate-prompt", bos_id=10) == []


def test_error_names_the_row_and_its_length():
    with pytest.raises(DataError, match=r"^row has 6 tokens; expected at most 4(.|\n)*another --too-long"):
        fitted(example("....xe"), 4, "error", bos_id=None)
