"""Recipes and rows are untrusted input: they give training options and rows, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from registry import way

import aprnb
from aprnb.arguments import with_recipe
from aprnb.errors import AprnbError, DataError, UsageProblem
from aprnb.tuning.data.rows import read_rows
from aprnb.tuning.planning.recipe import OPTIONS
from aprnb.tuning.planning.recipe_file import NOT_FROM_FILES, read_recipe_file
from aprnb.tuning.planning.recipe_reader import read_options, read_toml

ROWS = '{"instruction": "a", "response": "b"}\n{"instruction": "c", "response": "d"}\n'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with a private file above it."""
    (tmp_path / "private.jsonl").write_text(ROWS)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(ROWS)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def recipe(text: str | bytes) -> Path:
    path = Path("recipe.toml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@way("a recipe file that overwrites or writes elsewhere")
@pytest.mark.parametrize("line", ["force = true", 'output = "victim.apr"', "resume = true", 'output = "/etc/x.apr"'])
def test_a_recipe_file_cannot_say_what_is_written_or_overwritten(here, line):
    with pytest.raises(UsageProblem, match=rf"the recipe recipe\.toml sets {line.split()[0]}") as caught:
        with_recipe({"recipe": str(recipe(f'{line}\ndata = "rows.jsonl"\n'))})
    assert OPTIONS[line.split()[0]].flag in str(caught.value.action)
    assert set(NOT_FROM_FILES) == {"force", "output", "resume"}


@way("a recipe file that names files outside the working directory")
@pytest.mark.parametrize("name", ["model", "data", "eval_data", "config", "chat_template"])
@pytest.mark.parametrize(
    "path", ["../private.jsonl", "~/private.jsonl", "sub/../../private.jsonl", "/etc/passwd", "link"]
)
def test_a_recipe_file_cannot_name_a_file_outside_the_working_directory(here, name, path):
    (here / "link").symlink_to(here.parent / "private.jsonl")
    with pytest.raises(UsageProblem, match=f"sets {name} to .*expected a path below"):
        read_recipe_file(recipe(f'{name} = "{path}"\n'))


def test_options_that_recipes_may_not_set_are_taken_from_the_line_and_from_the_cell(here):
    given = with_recipe({"recipe": str(recipe('rank = 4\ndata = "rows.jsonl"\n')), "output": "x.apr", "force": True})
    assert (given["rank"], given["output"], given["force"]) == (4, "x.apr", True)
    _, options = read_options(read_toml('output = "x.apr"\nforce = true\n'))
    assert options.force is True


def test_paths_below_the_working_directory_and_text_are_taken(here):
    (here / "sub").mkdir()
    text = (
        'data = "./rows.jsonl"\nconfig = "sub/config.json"\nchat_template = "{% for m in messages %}/../{% endfor %}"\n'
    )
    assert read_recipe_file(recipe(text))["config"] == "sub/config.json"


@way("a recipe that is deep, huge or not text")
@pytest.mark.parametrize(
    "text",
    [
        "data = " + "[" * 15_000 + "]" * 15_000,
        "overrides = " + "{a=" * 5_000 + "1" + "}" * 5_000,
        "rank = " + "9" * 5_000,
        "a" + ".a" * 16_000 + "=1",
        "a" + ' . "b"' * 5_000 + "=1",
        b"\xff\xfea",
        'data = "rows.jsonl"\n' + "#" * 40_000,
        '"\\u001b]0;x\\u0007" = 1',
        "data = ",
        "learning_rate = nan",
        "learning_rate = inf",
        "seed = 1979-05-27",
        "rank = []",
        "rank = {a = 1}",
        "verbose = 7",
        "target_modules = [[1], {}]",
        "target_modules = 7",
        "overrides = 7",
        "overrides = [1, {}]",
        "method = [1]",
    ],
    ids=lambda text: str(text[:24]),
)
def test_an_unsupported_recipe_is_an_aprnb_error(here, text):
    with pytest.raises(UsageProblem):
        read_options(read_recipe_file(recipe(text)))


@pytest.mark.parametrize(
    "line", ["data = 1979-05-27", "data = 7", "config = 7", 'data = "a\\u0000b"', "eval_data = false"]
)
def test_a_source_of_another_type_is_an_aprnb_error(here, pocket_qwen3, line):
    options = {"data": "rows.jsonl", **read_recipe_file(recipe(line))}
    with pytest.raises(AprnbError):
        aprnb.plan(pocket_qwen3, **options)


@way("rows that are deep, huge or state a fact twice")
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 200_000, "nested too deeply|not JSON"),
        ('{"instruction":' * 100_000, "nested too deeply|not JSON"),
        ('{"instruction":"a","response":"b","x":' + "9" * 5_000 + "}", "not JSON"),
        ('{"instruction":"a","response":"b","response":"evil"}', "'response' appears twice"),
        ('{"messages":[{"role":"user","content":"a","content":"evil"}]}', "'content' appears twice"),
        ('{"instruction":"\\ud800","response":"b"}', "surrogate"),
        ('{"instruction":"a","response":1e999}', "response is a?"),
        ("\0", "not JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_row_that_cannot_be_used_is_named(here, line, reason):
    (here / "rows.jsonl").write_text(ROWS + line + "\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl line 3: .*({reason})"):
        read_rows("rows.jsonl")


@pytest.mark.parametrize("name", ["~root.jsonl", "~", "-rows.jsonl", "{rows}.jsonl", "rows $x.jsonl"])
def test_a_name_with_a_dot_and_a_slash_before_it_is_only_a_name(here, name):
    (here / name).write_text(ROWS)
    assert len(read_rows(f"./{name}").rows) == 2


def test_an_unknown_home_folder_is_an_aprnb_error():
    with pytest.raises(AprnbError, match="the home folder does not exist|no file"):
        read_rows("~nobody-of-this-name/rows.jsonl")


def test_rows_of_many_repeated_keys_take_no_quadratic_time(here):
    row = {"instruction": "a", "response": "b", **{f"k{number}": 1 for number in range(200_000)}}
    text = json.dumps(row)[:-1] + ', "k199999": 2}'
    (here / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match="'k199999' appears twice"):
        read_rows("rows.jsonl")
