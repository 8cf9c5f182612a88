from __future__ import annotations

import pytest

from aprnb.errors import UsageProblem
from aprnb.notebook.arguments import expand, join_continued, split


def texts(line: str) -> list[str]:
    return [token.text for token in split(line)]


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("'my file.apr' x", ["my file.apr", "x"]),
        ("--name=\"a b\" --x='c d'", ["--name=a b", "--x=c d"]),
        (r"C:\data\x.apr", [r"C:\data\x.apr"]),
        ("rows#1.jsonl # x", ["rows#1.jsonl", "#", "x"]),
        ("a'b c'd", ["ab cd"]),
        ("--rank {2 * 8}", ["--rank", "{2 * 8}"]),
        ('{paths["a b"]}.apr', ['{paths["a b"]}.apr']),
        ("it{s", ["it{s"]),
        ("", []),
    ],
)
def test_a_line_splits_into_tokens(line, tokens):
    assert texts(line) == tokens


def test_an_open_quote_is_named_with_its_column():
    with pytest.raises(UsageProblem, match="quote ' in column 5 is not closed"):
        split("a.b 'c d")


def test_a_backslash_continues_the_line_into_the_body():
    line, body = join_continued("model.apr \\", "  --rank 8 \\\n  --data x\nmethod = 'lora'\n")
    assert texts(line) == ["model.apr", "--rank", "8", "--data", "x"]
    assert body == "method = 'lora'\n"


def test_spaces_after_the_backslash_do_not_matter():
    line, body = join_continued("model.apr \\  ", "--rank 8\n")
    assert texts(line) == ["model.apr", "--rank", "8"]
    assert body == ""


def test_a_backslash_at_the_very_end_continues_nothing():
    assert join_continued("model.apr \\", "") == ("model.apr  ", "")


def test_a_value_with_spaces_stays_one_token():
    assert expand(split("$path {path}/x"), {"path": "my folder"}) == ["my folder", "my folder/x"]


def test_a_name_ends_where_python_ends_it():
    assert expand(split("$stem.apr"), {"stem": "model"}) == ["model.apr"]


def test_a_whole_token_passes_the_object_itself():
    rows = [{"instruction": "a", "response": "b"}]
    assert expand(split("--data $rows"), {"rows": rows})[1] is rows
    assert expand(split("--data=$rows"), {"rows": rows}) == ["--data", rows]
    assert expand(split("--data {rows[:1]}"), {"rows": rows}) == ["--data", rows[:1]]


def test_text_in_single_quotes_is_never_expanded():
    assert expand(split("'$x{y}' \"$x\""), {"x": "1"}) == ["$x{y}", "1"]


def test_a_dollar_without_a_name_is_a_dollar():
    assert expand(split("cost$ $5"), {}) == ["cost$", "$5"]


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    with pytest.raises(UsageProblem, match=r"there is no variable crpus \(did you mean corpus\?\)"):
        expand(split("$crpus"), {"corpus": 1})


def test_an_expression_that_fails_is_an_error():
    with pytest.raises(UsageProblem, match=r"\{1/0\} cannot be evaluated: ZeroDivisionError"):
        expand(split("{1/0}"), {})
