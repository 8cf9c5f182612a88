"""The files that rows come from: by content and name, packed, in folders and by pattern; bounded, links checked."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import zstandard

import aprnb
from aprnb.arguments import parse
from aprnb.errors import DataError, FileMissing, UsageProblem
from aprnb.tuning.data.row import Row
from aprnb.tuning.data.rows import RowSet, portable_rows, read_rows, split_rows
from aprnb.tuning.data.sources import row_files
from aprnb.tuning.planning.recipe_file import read_recipe_file

ROWS = [{"instruction": 'Spell, "fish".\nNow', "response": "f i s h"}, {"instruction": "Ä?", "response": "b" * 200_000}]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)
TEXTS = [(("user", row["instruction"]), ("assistant", row["response"])) for row in ROWS]


def turns(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, message.content) for message in row.messages)


def table(separator: str) -> bytes:
    text: str = pd.DataFrame(ROWS).to_csv(index=False, sep=separator)
    return text.encode()


def parquet(folder: Path) -> bytes:
    pytest.importorskip("pyarrow")
    pd.DataFrame(ROWS).to_parquet(folder / "x")
    return (folder / "x").read_bytes()


FILES = {
    "array.json": lambda _: json.dumps(ROWS).encode(),
    "pretty.json": lambda _: json.dumps(ROWS, indent=2).encode(),
    "rows.csv": lambda _: table(","),
    "semicolons.csv": lambda _: table(";"),
    "rows.tsv": lambda _: table("\t"),
    "rows.jsonl.gz": lambda _: gzip.compress(LINES.encode()),
    "members.jsonl.gz": lambda _: b"".join(gzip.compress(f"{line}\n".encode()) for line in LINES.splitlines()),
    "rows.csv.gz": lambda _: gzip.compress(table(",")),
    "rows.jsonl.zst": lambda _: zstandard.compress(LINES.encode()),
    "rows.parquet": parquet,
    "no-ending": parquet,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_rows_that_json_lines_give(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name](tmp_path))
    found = read_rows(path)
    assert [turns(row) for row in found.rows] == TEXTS
    assert found.description == f"instruction/response, from {name}"
    # its identity is that of the conversations, which the run's folder stores; the file itself is not needed again
    assert found.path is None
    assert found.sha256 == read_rows(b"".join(found.lines()).decode()).sha256


def test_empty_cells_are_absent_and_origins_are_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('instruction,input,output\n"a\nb",,c\n\nd,e,f\n')
    found = read_rows(path)
    assert [row.messages[0].content for row in found.rows] == ["a\nb", "d\n\ne"]
    assert [row.origin for row in found.rows] == ["rows.csv line 2", "rows.csv line 5"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"instruction,response\na,b,c\n", "x.csv line 2: 3 cells, but the header has 2 columns"),
        ("x.csv", b"instruction,instruction\na,b\n", "has two columns 'instruction'"),
        ("x.csv", b'instruction,response\na,"b\n', "x.csv is not CSV: unexpected end of data"),
        ("x.csv", b"q,a\nb,c\n", "x.csv line 2: the row is of no known form; its keys are 'q', 'a'"),
        ("x.json", b'[{"instruction": "a"},\n oops]', "begins as a JSON array and is not JSON .* line 2, character 2"),
        ("x.json", b"[1]", "x.json row 1: a JSON number, not an object"),
        ("x.json", b"[]", "x.json contains no rows"),
        ("x.xlsx", b"PK\x03\x04rest", "is a ZIP archive or an Excel file"),
        ("x.jsonl.gz", gzip.compress(LINES.encode())[:-9], "is a damaged gzip file"),
        ("x.jsonl.gz", b"\x1f\x8bnot", "is a damaged gzip file"),
        ("x.jsonl.zst", zstandard.compress(LINES.encode())[:5] + b"x" * 9, "is a damaged Zstandard file"),
        ("x.parquet", b"PAR1 and not more", "cannot be read as a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_it_is(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_rows(path)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_a_packed_file_unpacks_to_a_bounded_size(tmp_path, monkeypatch, name):
    monkeypatch.setattr(row_files, "MAX_DATA_BYTES", 1 << 20)
    pack = gzip.compress if name.endswith("gz") else zstandard.compress
    (tmp_path / name).write_bytes(pack(b" " * (2 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 1,048,576 bytes"):
        read_rows(tmp_path / name)


def test_parquet_names_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageProblem, match=r"x\.parquet needs pyarrow, which is not installed\n→ pip install pyarrow"):
        read_rows(tmp_path / "x.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files with rows, a hidden one, a file of another kind and a folder."""
    home = tmp_path / "rows"
    (home / "sub").mkdir(parents=True)
    for name in ("b.jsonl", ".hidden.jsonl", "sub/c.jsonl"):
        (home / name).write_text(f'{{"instruction": "{name}", "response": "x"}}')
    (home / "a.csv").write_text("instruction,output\na.csv,x\n")
    (home / "README.md").write_text("not rows")
    return home


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("", ["a.csv", "b.jsonl"]), ("*.jsonl", ["b.jsonl"]), ("**/*.jsonl", ["b.jsonl", "sub/c.jsonl"])],
)
def test_a_folder_or_pattern_gives_its_files_by_name_without_hidden_ones(folder, pattern, names):
    found = read_rows(f"{folder}/{pattern}")
    assert [row.messages[0].content for row in found.rows] == names
    assert found.rows[0].origin == f"{names[0]} line {2 if names[0] == 'a.csv' else 1}"


@pytest.mark.parametrize("pattern", ["", "*.jsonl", "*/c.jsonl"])
def test_links_that_lead_out_of_a_folder_are_not_followed(folder, pattern):
    (folder.parent / "c.jsonl").write_text(LINES)
    (folder / "z.jsonl").symlink_to(folder.parent / "c.jsonl")
    (folder / "linked").symlink_to(folder.parent)
    with pytest.raises(DataError, match=r"is a link to|through a link"):
        read_rows(f"{folder}/{pattern}")


def test_a_pattern_without_files_is_a_missing_file(folder):
    with pytest.raises(FileMissing, match=r"no file is named .*\*\.tsv"):
        read_rows(folder / "*.tsv")


def test_a_saved_dataset_is_read_without_datasets_and_within_its_folder(folder):
    arrow = pytest.importorskip("pyarrow")
    content = arrow.Table.from_pylist(ROWS)
    with arrow.OSFile(str(folder / "data.arrow"), "wb") as file, arrow.ipc.new_stream(file, content.schema) as stream:
        stream.write_table(content)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    assert [turns(row) for row in read_rows(folder).rows] == TEXTS
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../data.arrow"}]}')
    with pytest.raises(DataError, match="a plain file name"):
        read_rows(folder)
    (folder / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="is a saved DatasetDict of sub; expected one split"):
        read_rows(folder)


def test_the_objects_of_datasets_are_read_and_a_dict_of_splits_names_them():
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_list(ROWS)
    assert [turns(row) for row in read_rows(found).rows] == TEXTS
    with pytest.raises(DataError, match=r"DatasetDict(.|\n)*data\['train'\]"):
        read_rows(datasets.DatasetDict({"train": found}))


# ---- several sources


@pytest.fixture()
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A file of four rows and one of two."""
    paths = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path, count in zip(paths, (4, 2), strict=True):
        path.write_text("".join(f'{{"instruction": "{path.stem}{at}", "response": "x"}}\n' for at in range(count)))
    return paths


def asked(found: RowSet) -> list[str]:
    return [row.messages[0].content for row in found.rows]


def test_several_sources_are_read_one_after_the_other_as_often_as_their_weights_say(two):
    first, second = two
    both = ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert asked(read_rows([first, str(second)])) == both
    twice = read_rows({first: 1, second: 2.0})
    assert asked(twice) == [*both, "b0", "b1"]
    assert twice.description == "instruction/response, from a.jsonl; instruction/response, from b.jsonl × 2"
    half = read_rows([f"{first}=0.5", second])
    assert len(half.rows) == 4
    assert asked(half) == asked(read_rows({first: 0.5, second: 1}))
    assert asked(read_rows({first: 1.5})) == ["a0", "a1", "a2", "a3", *asked(half)[:2]]


def test_equal_rows_of_two_sources_are_on_one_side_of_the_split(two):
    rows = read_rows([two[0], two[0], two[1]]).rows
    train, held_out = split_rows(rows, 0.3, 1)
    assert held_out
    assert not {row.key for row in train} & {row.key for row in held_out}


def test_a_file_whose_name_ends_like_a_weight_is_that_file(two, tmp_path):
    odd = two[0].rename(tmp_path / "a=2")
    assert len(read_rows(str(odd)).rows) == 4


@pytest.mark.parametrize("weight", [0, -1, 101, float("inf"), float("nan")])
def test_a_weight_that_is_no_number_of_times_is_an_error(two, weight):
    with pytest.raises(DataError, match="the weight of .*a.jsonl is .*; expected a number above 0, at most 100"):
        read_rows({two[0]: weight})


def test_every_side_takes_several_sources(two, pocket_qwen3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["pocket", "--data", "a.jsonl", "--data", "b.jsonl=2", "--plan"]
    given = parse("finetune", line, prog="x", surface="shell")
    assert given["data"] == ["a.jsonl", "b.jsonl=2"]
    (tmp_path / "recipe.toml").write_text('data = {"a.jsonl" = 1, "b.jsonl" = 2}\n')
    of_recipe = read_recipe_file(tmp_path / "recipe.toml")
    plans = [aprnb.plan(pocket_qwen3, **options).to_json() for options in ({"data": given["data"]}, of_recipe)]
    assert plans[0]["data"] == plans[1]["data"]
    assert plans[0]["recipe"]["data"] == {"a.jsonl": 1.0, "b.jsonl": 2.0}
    assert portable_rows({"data": {Path("a.jsonl"): 2}}, None) == {"data": {"a.jsonl": 2.0}}


@pytest.mark.parametrize("data", ['["../x.jsonl"]', '{"../x.jsonl" = 1}', '"..=0.5"', '["a.jsonl", "/etc/passwd=2"]'])
def test_no_source_of_a_recipe_file_lies_outside_the_working_folder(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(f"data = {data}\n")
    with pytest.raises(UsageProblem, match="expected a path below"):
        read_recipe_file(tmp_path / "recipe.toml")


def test_columns_are_those_of_the_sources_that_have_them(two, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("q,a\nx,y\n")
    columns = {"instruction": "q", "response": "a"}
    assert asked(read_rows([path, two[1]], columns=columns)) == ["x", "b0", "b1"]
    with pytest.raises(DataError, match="no column 'q'"):
        read_rows(two[1], columns=columns)


def test_rows_with_other_columns_are_stored_under_the_names_of_the_forms(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("q,a\nx,y\n")
    sources = {"data": [{"q": "x", "a": "y"}], "eval_data": path}
    columns = {"instruction": "q", "response": "a"}
    sent = portable_rows(sources, columns)
    assert sent["columns"] is None
    assert sent["data"] == sent["eval_data"]
    assert asked(read_rows(sent["data"])) == ["x"]
    assert portable_rows({"data": path}, columns) == {"data": path}
    found = read_rows(path, columns=columns)
    assert found.path is None  # so that a run's folder gets the rows, not the file
