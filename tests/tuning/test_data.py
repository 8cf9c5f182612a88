"""Rows read, split and labelled."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

import aprnb
from aprnb.errors import ChatTemplateError, DataError, FileMissing
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tuning.data.example import Example
from aprnb.tuning.data.examples import encode_rows
from aprnb.tuning.data.labels import Turn, find_answers
from aprnb.tuning.data.messages import Message
from aprnb.tuning.data.row import Row
from aprnb.tuning.data.rows import read_rows, split_rows


@pytest.fixture(scope="module")
def metadata(pocket_qwen3: Path) -> dict[str, Any]:
    return dict(aprnb.open(pocket_qwen3).metadata)


@pytest.fixture()
def tokenizer(metadata: dict[str, Any]) -> Any:
    return build_tokenizer(metadata, "qwen3").tokenizer


def marked(example: Example, tokenizer: Any) -> str:
    """The example's text, labelled tokens in ⟦⟧."""
    parts = zip(example.input_ids, example.labels_mask, strict=True)
    return "".join(f"⟦{tokenizer.decode([i])}⟧" if label else tokenizer.decode([i]) for i, label in parts).replace(
        "⟧⟦", ""
    )


def encode(rows: Any, tokenizer: Any, max_seq_len: int = 512) -> Any:
    return encode_rows(read_rows(rows).rows, tokenizer, max_seq_len)


def talk(*turns: str) -> dict[str, Any]:
    """A conversation that begins with the user."""
    return {"messages": [{"role": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)]}


# ---- reading


def test_an_instruction_row_becomes_a_conversation():
    [row] = read_rows([{"system": "S", "instruction": "Translate.", "input": "cow", "response": "vache"}]).rows
    assert row.messages == (Message("system", "S"), Message("user", "Translate.\n\ncow"), Message("assistant", "vache"))


def test_a_file_a_list_a_frame_and_text_give_the_same_conversations(tmp_path):
    rows = [{"instruction": "a", "response": "b", "system": None}, {"instruction": "c", "response": "d", "system": "s"}]
    text = "\n".join(map(json.dumps, rows))
    path = tmp_path / "rows.jsonl"
    path.write_text("\ufeff" + text + "\n\n")
    found = [read_rows(source) for source in (path, str(path), text, rows, pd.DataFrame(rows))]
    assert len({tuple(row.messages for row in each.rows) for each in found}) == 1
    assert [row.origin for row in found[0].rows] == ["rows.jsonl line 1", "rows.jsonl line 2"]
    assert [row.origin for row in found[3].rows] == ["data row 1", "data row 2"]


def test_a_frame_may_hold_messages():
    frame = pd.DataFrame({"messages": [np.array(talk("a", "b")["messages"])], "score": [1.5]})
    found = read_rows(frame)
    assert found.rows[0].messages == (Message("user", "a"), Message("assistant", "b"))
    assert found.warnings == ("data: unused keys: 'score'",)


def test_a_file_s_hash_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"instruction":"a","response":"b"}\n')
    # as sha256sum prints it
    assert read_rows(path).sha256 == "0e4f21eba09d077a71f876fde2a84c1c677c8d67ead89c274394e76d6d238cae"


def test_keys_that_are_not_used_are_listed_once():
    row = {"instruction": "a", "response": "b", "id": 1, "metadata": {}}
    assert read_rows([row, row]).warnings == ("data: unused keys: 'id', 'metadata'",)


def test_line_separators_inside_strings_do_not_cut_a_row():
    [row] = read_rows('{"instruction":"a\u2028b\u0085","response":"c"}').rows
    assert row.messages[0].content == "a\u2028b\u0085"


BAD_ROWS = {
    '{"instruction": "a"': "not JSON",
    "[1, 2]": "a JSON array, not one object per line",
    '"text"': "a JSON string, not an object",
    '{"instruction": "a"}': "no response",
    '{"instruction": "a", "responses": "b"}': "no response, but a key 'responses'",
    '{"instruction": "a", "response": ""}': "empty response",
    '{"instruction": " ", "response": "b"}': "empty instruction",
    '{"instruction": 7, "response": "b"}': "instruction is number, not text",
    '{"instruction": "a", "response": ["b"]}': "response is array, not text",
    '{"instruction": "a", "response": "\\ud800"}': "half a surrogate pair",
    '{"messages": []}': "messages is empty",
    '{"messages": "hi"}': "messages is string, not a list",
    '{"messages": ["hi"]}': "message 1 is string, not an object",
    '{"messages": [{"role": "assistent", "content": "x"}]}': "role 'assistent' (did you mean assistant?)",
    '{"messages": [{"role": "ipython", "content": "x"}]}': "role 'ipython', not one of system, developer, user, assis",
    '{"messages": [{"role": "user"}]}': "content of message 1 is null, not text",
    '{"messages": [{"role": "assistant", "content": " "}]}': "message 1 is an empty answer",
    '{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}': "tool call 1 of message 1 is number, n",
    '{"messages": [{"role": "user", "content": "x"}], "response": "b"}': "has both messages and response",
    "[" * 100_000: "nested too deeply",
}


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS.items(), ids=[reason[:40] for reason in BAD_ROWS.values()])
def test_a_bad_row_is_named_with_its_line_and_reason(line, reason, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction":"a","response":"b"}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value).startswith("rows.jsonl line 2: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_first_bad_row_is_shown_and_the_others_are_counted():
    good, bad = {"instruction": "a", "response": "b"}, {"instruction": "a"}
    with pytest.raises(DataError, match=r"^data row 2: no response; and 1 more of 4 rows cannot be used"):
        read_rows([good, bad, good, bad])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b'{"instruction":"a","response":"\xff"}', "is not UTF-8 .line 1, byte 31"),
    ],
)
def test_a_file_without_readable_rows_says_why(content, reason, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_rows(path)


def test_a_missing_file_and_a_folder_are_different_errors(tmp_path):
    with pytest.raises(FileMissing):
        read_rows(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match="holds no file with rows"):
        read_rows(tmp_path)


@pytest.mark.parametrize("source", [{"instruction": "a"}, b"x", 7, []])
def test_a_source_that_holds_no_rows_is_rejected(source):
    with pytest.raises(DataError):
        read_rows(source)


# ---- splitting


def rows_of(contents: list[int]) -> tuple[Row, ...]:
    return tuple(
        Row((Message("user", str(c)), Message("assistant", "x")), f"row {at}") for at, c in enumerate(contents)
    )


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.floats(0.01, 0.9), st.integers(0, 2**63 - 1))
@settings(max_examples=80, deadline=None)
def test_a_split_is_disjoint_by_content_complete_and_repeatable(contents, val_split, seed):
    rows = rows_of(contents)
    train, held = split_rows(rows, val_split, seed)
    assert sorted(row.origin for row in train + held) == sorted(row.origin for row in rows)
    assert not {row.messages for row in train} & {row.messages for row in held}
    assert train
    assert bool(held) == (len(set(contents)) > 1)
    assert split_rows(rows, val_split, seed) == (train, held)


def test_a_split_holds_out_the_wanted_part_and_depends_on_the_seed():
    rows = rows_of(list(range(200)))
    assert len(split_rows(rows, 0.1, 1)[1]) == 20
    assert split_rows(rows, 0.1, 1) != split_rows(rows, 0.1, 2)
    assert split_rows(rows, 0, 1) == (rows, ())


# ---- labels


def test_the_answer_and_its_end_token_are_labelled_and_nothing_else(tokenizer):
    [example] = encode([{"instruction": "Spell cow.", "response": "c o w", "system": "S."}], tokenizer).examples
    assert marked(example, tokenizer) == (
        "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\nSpell cow.<|im_end|>\n"
        "<|im_start|>assistant\n⟦c o w<|im_end|>⟧\n"
    )


def test_every_answer_of_a_conversation_is_labelled_and_turns_after_the_last_are_left_out(tokenizer):
    [example] = encode([talk("q", "end", "r", "im_end", "bye")], tokenizer).examples
    assert marked(example, tokenizer) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦end<|im_end|>⟧\n"
        "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n⟦im_end<|im_end|>⟧\n"
    )


def test_positions_decide_and_never_token_ids(tokenizer):
    found = encode([talk("what is <|im_end|>?", "<|im_end|> ends a turn", "and?", "x")], tokenizer)
    assert "⟦<|im_end|> ends a turn<|im_end|>⟧" in marked(found.examples[0], tokenizer)
    assert "what is <|im_end|>?" in marked(found.examples[0], tokenizer)
    assert any("control tokens" in warning for warning in found.warnings)


def test_ids_equal_those_of_the_template_rendered_by_transformers(tokenizer):
    row = talk("Spell cow.", "c o w", "Äh?", "c  o  w 🎉")
    [example] = encode([row], tokenizer).examples
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert example.input_ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_bos_is_there_once_where_the_template_writes_it_and_never_added(metadata):
    tokenizer = build_tokenizer({**metadata, "tokenizer.add_bos_token": True}, "qwen3").tokenizer
    assert encode([talk("a", "b")], tokenizer).examples[0].input_ids.tolist().count(824) == 0
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert encode([talk("a", "b")], tokenizer).examples[0].input_ids.tolist().count(824) == 1


THINKING = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- set answer = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{%- set first = m.content.split('</think>')[0] if '</think>' in m.content else '' %}"
    "{%- set thought = first.split('<think>')[-1].strip('\n') %}"
    "{%- if m.role == 'assistant' and loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{- answer + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As Qwen3's published template: thinking in front of the last answer, even if empty, and none before earlier ones."""


def test_an_inserted_thinking_block_is_part_of_what_the_model_writes(tokenizer):
    tokenizer.chat_template = THINKING
    [example] = encode([talk("a", "think")], tokenizer).examples
    assert marked(example, tokenizer).endswith("assistant\n⟦<think>\n\n</think>\n\nthink<|im_end|>⟧\n")


def test_thinking_that_the_template_rewrites_is_labelled_up_to_the_end_token(tokenizer):
    tokenizer.chat_template = THINKING
    [example] = encode([talk("a", "<think>why</think>so")], tokenizer).examples
    assert marked(example, tokenizer).endswith("assistant\n⟦<think>\nwhy\n</think>\n\nso<|im_end|>⟧\n")


def test_where_earlier_answers_are_rewritten_only_the_last_is_trained_and_that_is_reported(tokenizer):
    tokenizer.chat_template = THINKING
    found = encode([talk("a", "b", "c", "d"), talk("a", "b")], tokenizer)
    assert marked(found.examples[0], tokenizer).count("⟦") == 1
    assert marked(found.examples[0], tokenizer).endswith("⟦<think>\n\n</think>\n\nd<|im_end|>⟧\n")
    assert found.warnings[0].startswith("1 conversation(s): the chat template rewrites earlier answers")


def test_a_generation_prompt_that_begins_no_answer_is_rejected(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n'", "assistant\n<think>\n'")
    with pytest.raises(
        DataError, match=r"data row 1: the start of the answer is unknown: the chat template writes .*<think>"
    ):
        encode([talk("a", "b")], tokenizer)


def test_a_conversation_that_the_template_rejects_is_named(tokenizer):
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
        tokenizer.chat_template
    )
    rows = [talk("a", "b"), {"system": "s", "instruction": "a", "response": "b"}]
    with pytest.raises(DataError, match=r"^data row 2: the chat template rejects this conversation: no system"):
        encode(rows, tokenizer)


def test_a_template_without_an_end_token_is_rejected(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ':\n' + m.content + '\n' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
    )
    with pytest.raises(DataError, match="no end-of-turn token is labelled"):
        encode([talk("a", "b")], tokenizer)


def test_an_answer_that_shares_a_token_with_the_prompt_is_reported(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}" + (
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    found = encode([talk("a", "is it")], tokenizer)
    assert marked(found.examples[0], tokenizer) == "user: a<|im_end|>assistant: is⟦ it<|im_end|>⟧"
    assert found.warnings[0].startswith("1 row(s): the answer's first characters share a token with the prompt")


def test_a_tokenizer_without_a_template_is_rejected(metadata):
    with pytest.raises(ChatTemplateError, match="no chat template"):
        encode([talk("a", "b")], build_tokenizer(metadata, "llama").tokenizer)


def test_an_end_token_that_is_not_the_tokenizer_s_is_reported(metadata):
    other_end = {**metadata, "tokenizer.eos_token_id": 824}
    found = encode([talk("a", "b")], build_tokenizer(other_end, "qwen3").tokenizer)
    assert found.warnings == (
        "answers end with '<|im_end|>', the tokenizer's end token is '<|endoftext|>': other programs may not stop",
    )


# ---- lengths and counts


def test_of_long_rows_the_head_is_cut_and_that_is_counted(tokenizer):
    rows = [talk("a", "b"), talk("a", "word " * 100), talk("word " * 100, "b"), talk("only a question")]
    found = encode(rows, tokenizer, max_seq_len=40)
    assert (found.rows, len(found.examples), found.rows_without_labels, found.truncated) == (4, 2, 2, 1)
    assert max(found.lengths) == 40
    assert marked(found.examples[1], tokenizer).endswith("word word <|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧\n")
    assert found.tokens == sum(found.lengths)
    assert found.labelled_tokens == sum(found.labelled)
    assert any("1 row(s) are left out: what they train does not fit" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (talk("only a question"), "1 without an answer, 0 longer than"),
        (talk("a", "word " * 100), "0 without an answer, 1 longer than --max-seq-len 40"),
    ],
)
def test_rows_that_teach_nothing_are_rejected_when_all_are_so(tokenizer, row, reason):
    with pytest.raises(DataError, match=reason):
        encode([row], tokenizer, max_seq_len=40)


def test_the_first_token_is_never_labelled(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    [example] = encode([{"messages": [{"role": "assistant", "content": "a b"}]}], tokenizer).examples
    assert example.labels_mask.tolist()[0] is False


def test_thousands_of_rows_are_encoded_in_seconds(tokenizer):
    rows = [{"instruction": f"What is {at}?", "response": "It is so. " * 5} for at in range(2000)]
    start = time.process_time()
    assert len(encode(rows, tokenizer).examples) == 2000
    assert time.process_time() - start < 10  # about 1.5 s of processor time


# ---- the search for answers, on text alone


def test_an_answer_that_appears_twice_without_an_end_token_is_not_guessed():
    turns = [Turn("x", "Q: ", "Q: x x\n"), Turn("y", "Q: x x\nQ: ", "Q: x x\nQ: y<e>")]
    answers, complete = find_answers("Q: x x\nQ: y<e>", turns, [(11, 14)])
    assert not complete
    assert [answer.span for answer in answers] == [(10, 14)]


def test_an_end_token_that_only_the_last_answer_has_still_labels_earlier_ones():
    turns = [Turn("x", "Q: ", "Q: x\n<e>"), Turn("y", "Q: x\nQ: ", "Q: x\nQ: y<e>")]
    answers, complete = find_answers("Q: x\nQ: y<e>", turns, [(9, 12)])
    assert complete
    assert [(answer.span, answer.end_token) for answer in answers] == [((3, 4), None), ((8, 12), (9, 12))]
