from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from IPython.core.completer import CompletionContext

from aprnb.arguments import parse
from aprnb.errors import UsageProblem
from aprnb.notebook import arguments
from aprnb.notebook.arguments import expand, split
from aprnb.notebook.completion import magic_matcher
from aprnb.tuning.data.rows import read_rows

EVIL = '{open("X","w").write("x")}'


def completions(shell, text: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the completer calls itself provisional since IPython 6
        return [found.text for found in shell.Completer.completions(text, len(text))]


def matched(line: str, after: str = "") -> tuple[str, list[str]]:
    """The fragment that is replaced, and the paths that our matcher offers in its place."""
    *_, last = line.split("\n")
    context = CompletionContext(last, line + after, len(last), line.count("\n"), None)
    found = magic_matcher(context)
    return found["matched_fragment"], [each.text for each in found["completions"] if each.type == "path"]


def paths(line: str, after: str = "") -> list[str]:
    return matched(line, after)[1]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%apr_inspect --ver", ["--verify"]),
        ("r = %apr_inspect --ver", ["--verify"]),
        ("%time %apr_inspect --ver", ["--verify"]),
        ("apr_inspect --ver", ["--verify"]),
        ("%apr_finetune x.apr --method q", ["qlora"]),
        ("%apr_finetune x.apr -m q", ["qlora"]),
        ("%%apr_finetune x.apr \\\n    --lear", ["--learning-rate"]),
        ("%%apr_finetune x.apr \\\n    --data with", ["'with blank.jsonl'"]),
        ("%apr_inspect mod", ["model.apr"]),
        ("report = %apr_inspect --verify mod", ["model.apr"]),
        ("%apr_finetune model.apr --data r", ["rows.jsonl"]),
        ("%apr_finetune 'with blank.apr' -d r", ["rows.jsonl"]),
        ("%apr_finetune model.apr --data=r", ["rows.jsonl"]),
        ("%apr_finetune model.apr --data='wi", ["'with blank.jsonl'"]),
        ("%apr_finetune model.apr --method=q", ["qlora"]),
        ("%apr_finetune model.apr --device ", ["auto", "cpu", "cuda"]),
        ("%apr_convert model.apr x.apr --dtype q4", ["q4", "q4_k", "q4_k_s", "q4_k_m"]),
        ("%apr_convert model.apr s", ["sub/"]),
        ("%apr_convert --f", ["--force"]),
        ("%apr_inspect with", ["'with blank.apr'"]),
        ("%apr_inspect sub/", ["sub/deep.apr"]),
        ("%apr_inspect --as ", []),
        ("%apr_inspect oth", []),
    ],
)
def test_options_choices_and_files_are_completed(shell, folder, text, found):
    touch("model.apr", "rows.jsonl", "with blank.apr", "with blank.jsonl", "sub/deep.apr", "other.txt")
    assert completions(shell, text) == found


def test_other_lines_are_left_to_the_others(shell):
    shell.user_ns["apricot_variable"] = 1
    assert "apricot_variable" in completions(shell, "aprico")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("my", ["'my model.apr'"]),
        ("'my", ["'my model.apr'"]),
        ('"my', ['"my model.apr"']),
        ("{op", [f"'{EVIL}.apr'"]),
        ("'{op", [f"'{EVIL}.apr'"]),
        ('"{op', [f"'{EVIL}.apr'"]),
        ("$HO", ["'$HOME.apr'"]),
        ('"$HO', ["'$HOME.apr'"]),
        ("'a folder/", ["'a folder/deep.apr'", "'a folder/in {x}.apr'"]),
        ('"a folder/', ['"a folder/deep.apr"', "'a folder/in {x}.apr'"]),
        ("'a folder/'d", ["'a folder/deep.apr'"]),
        ("a", ["'a folder/"]),
        ("-o", ["./-odd.apr"]),
        ("'-o", ["'./-odd.apr'"]),
        ("~", ["./~root/"]),
        ("./~root/", ["./~root/model.apr"]),
        ("größe", ["größe.apr"]),
        ("it", []),
    ],
)
def test_names_are_offered_in_the_quotes_that_keep_them_names(folder, typed, offered):
    touch("my model.apr", f"{EVIL}.apr", "$HOME.apr", "a folder/in {x}.apr", "a folder/deep.apr", "-odd.apr")
    touch("~root/model.apr", "größe.apr", "it's.apr")
    assert paths(f"%apr_inspect {typed}") == offered


@pytest.mark.parametrize(
    "name", ["a\n.apr", "a\x1b[2J.apr", "a\u202egpj.apr", "a\u200b.apr", "a\u2028.apr", "a\udcff.apr"]
)
def test_names_with_characters_that_cannot_be_seen_are_not_offered(folder, name):
    try:
        touch(name, "ab.apr")
    except OSError:
        pytest.skip("this file system does not take the name")
    assert paths("%apr_inspect a") == ["ab.apr"]


@pytest.mark.parametrize(("typed", "after"), [("'my", "'"), ('"my', '" --verify')])
def test_a_quote_that_is_closed_after_the_cursor_is_not_closed_again(folder, typed, after):
    touch("my model.apr")
    [text] = paths(f"%apr_inspect {typed}", after)
    assert split(text + after)[0].text == "my model.apr"


def test_a_home_folder_is_offered_by_its_full_path(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "my home"))
    touch("my home/model.apr")
    assert paths("%apr_inspect ~/m") == [f"'{folder}/my home/model.apr'"]
    assert paths("%apr_inspect ~nobody-has-this-name/") == []


def test_names_of_training_rows_are_read_as_files(folder):
    names = ("{a}.jsonl", " {b}.jsonl", "-c.jsonl", "{d", "~e.jsonl", "~root/f.jsonl")
    touch(*names[:3])
    for name in names[:3]:
        Path(name).write_text('{"instruction": "a", "response": "b"}\n', encoding="utf-8")
    touch("~e.jsonl", "~root/f.jsonl")
    texts = [*paths("%apr_finetune x --data {"), *paths("%apr_finetune x --data '"), *paths("%apr_finetune x --data=-")]
    values = expand(split(" ".join(texts)), {})
    assert {"./{a}.jsonl", "./-c.jsonl"} <= set(values)
    assert [row.origin for value in values for row in read_rows(value).rows]
    # pathlib drops `./`, and rows expand what is left
    assert paths("%apr_finetune x --data ~") == paths("%apr_finetune x --data ./~root/") == []


def test_names_that_need_other_quotes_are_not_offered_where_more_follows_on_the_line(folder):
    # a client that leaves the typed quote in place would put them outside of quotes
    touch("a {x}.apr")
    assert paths('%apr_inspect "a', " --as 'b'") == []
    assert paths("%apr_inspect a", " --as 'b'") == paths("%apr_inspect 'a", " --as 'b'") == ["'a {x}.apr'"]


def test_names_that_would_be_template_text_are_not_offered(folder):
    touch("{{a}}.jinja", "{%b%}.jinja", "c {{d/e.jinja", "{f}.jinja")
    assert paths("%apr_finetune x --chat-template ") == ["'{f}.jinja'"]
    assert paths("%apr_finetune x --chat-template 'c {{d/") == []


def test_no_name_is_offered_into_an_expression_that_is_still_open(folder):
    touch("1}.apr", "plain.apr")
    assert paths("%apr_inspect {0 or ") == []


def test_no_name_is_offered_into_a_quote_that_began_on_an_earlier_line(folder):
    touch("my  model.apr", "model.apr")
    assert paths("%apr_inspect 'my \\\nmod") == []


@pytest.mark.parametrize("use_jedi", [True, False])
@pytest.mark.parametrize(
    "typed",
    [
        "{op",
        '"{op',
        "'{op",
        "{open('{op",
        '{open("{op',
        "'x' {open('",
        '"dir\\" {op',
        '"""" {op',
        "--as {op",
        "{op}.apr --as ",
    ],
)
def test_other_matchers_offer_no_file_names(shell, folder, monkeypatch, typed, use_jedi):
    monkeypatch.setattr(shell.Completer, "use_jedi", use_jedi)
    touch(f"{EVIL}.apr", f"{EVIL}'.apr", f"{EVIL}.txt", f'" {EVIL}.txt')
    for start in ("%apr_inspect", "r = %apr_check", "%time %apr_inspect", "apr_inspect", "%%apr_finetune x \\\n"):
        raw = [text for text in completions(shell, f"{start} {typed}") if "X" in text and text[0] != "'"]
        assert raw == []


@pytest.mark.parametrize("use_jedi", [True, False])
@pytest.mark.parametrize("typed", ["$odd", "{odd", "{folder}/{odd", "--as x 'a b' {str(odd", "--config=$odd"])
def test_python_names_are_completed_after_a_dollar_and_a_brace(shell, folder, monkeypatch, typed, use_jedi):
    monkeypatch.setattr(shell.Completer, "use_jedi", use_jedi)
    shell.user_ns["odd_rows"] = []
    assert completions(shell, f"%apr_inspect {typed}") == ["odd_rows"]


def test_every_name_that_can_be_quoted_is_offered(folder):
    names = ["a b.apr", "a$b.apr", 'a"b.apr', "a{b}.apr", "a\\b.apr", "a#b.apr", "a!b.apr", "a=b.apr", "a木🙂.apr"]
    touch(*names)
    assert [token.text for token in split(" ".join(paths("%apr_inspect ")))] == sorted(names)


PIECES = st.sampled_from(
    [" ", *"{1} {a {1}} $a ' \" ` ~ - / # = % ! ? \\ a b ab 0 . ( é 木 🙂 \t \n \x85 \u200b \u3000 \udcff".split(" ")]
)
NAMES = st.builds(
    "{}{}".format,
    st.lists(PIECES | st.characters(), max_size=8).map("".join),
    st.sampled_from(["", ".apr", ".jsonl", ".jinja"]),
).filter(lambda name: name not in ("", ".", "..") and not {"/", "\0"} & set(name))
STARTS = ("%apr_inspect ", "%apr_finetune --data ", "%apr_finetune --chat-template=")
TYPED = {
    "names": st.lists(NAMES, min_size=1, max_size=5),
    "length": st.integers(0, 12),
    "quote": st.sampled_from(["", "'", '"']),
    "start": st.sampled_from(STARTS),
}


@contextlib.contextmanager
def folder_of(names: list[str]):
    """A current folder with a file for each name with an ending, and a folder for each other one."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for name in map(Path, names):
            with contextlib.suppress(OSError, ValueError):  # a name that this file system does not take
                name.touch() if name.suffix else name.mkdir()
        yield


def expanded(text: str) -> tuple[list[object], list[str]]:
    """The values of the tokens in `text`, and what was evaluated or looked up for them."""
    seen: list[str] = []

    class Names(dict):
        def __contains__(self, name):
            return True

        def __getitem__(self, name):
            return seen.append(name)

    with mock.patch.object(arguments, "eval", lambda expression, *_: seen.append(expression), create=True):
        return expand(split(text), Names()), seen


def compiles(text: str) -> bool:
    with contextlib.suppress(SyntaxError, ValueError):
        return compile(text, "", "eval") is not None
    return False


@given(**TYPED)
@example(names=['{open("X")}.apr'], length=2, quote="", start="%apr_inspect ")
@example(names=["-a.apr", "~b.apr", "c d.apr"], length=0, quote="", start="%apr_inspect ")
@settings(max_examples=300, deadline=None)
def test_what_is_offered_is_one_token_that_names_the_file_and_evaluates_nothing(names, length, quote, start):
    line = start + quote + names[0][:length].partition("\n")[0]
    with folder_of(names):
        fragment, offered = matched(line)
        for text in offered:
            closed = text + text[0] if text.endswith("/") and text[0] in "'\"" else text
            values, seen = expanded(closed)
            assert (len(values), seen) == (1, [])
            assert Path(values[0]).name in names
            assert os.path.lexists(values[0])
            assert parse("inspect", values, prog="", surface="notebook") == {"checkpoint": values[0]}
            assert split(line.removesuffix(fragment) + closed)[-1].text.endswith(values[0])


@given(**TYPED, after=st.sampled_from(["", "'", '"', " 'x'", ' "y"', " 'z"]))
@example(names=["{open(1)}"], length=2, quote="'", start="%apr_finetune --data ", after="")
@example(names=['a"{open(1)}'], length=1, quote='"', start="%apr_inspect ", after="")
@example(names=["a{open(1)}.apr"], length=1, quote='"', start="%apr_inspect ", after='"')
@example(names=['a"{open(1)}.apr'], length=1, quote='"', start="%apr_inspect ", after=" 'z")
@settings(max_examples=300, deadline=None)
def test_a_name_that_a_client_puts_behind_a_part_of_the_fragment_evaluates_nothing(names, length, quote, start, after):
    line = start + quote + names[0][:length].partition("\n")[0]
    with folder_of(names):
        fragment, offered = matched(line, after)
    for text in offered:
        for kept in (line[:end] for end in range(len(line) - len(fragment), len(line))):
            part = kept[len(line) - len(fragment) :]
            with contextlib.suppress(UsageProblem):
                _, seen = expanded(kept + text.removeprefix(part) + after)
                assert not [each for each in seen if each not in kept and compiles(each)]
