"""Text from files: the encodings in which people save it, and the others, each named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import aprnb
from aprnb.errors import CheckpointError, DataError, UsageProblem
from aprnb.formats.json_files import read_object, read_text
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tuning.data.rows import read_rows
from aprnb.tuning.planning.recipe_file import read_recipe_file
from aprnb.tuning.planning.recipe_reader import read_toml
from aprnb_tests.safetensors_bytes import folder_of

SAVED = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16 LE": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-16 with CRLF": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "lone CR": lambda text: text.replace("\n", "\r").encode(),
}
OTHERS = {
    "Latin-1": ("{# é #}".encode("latin-1"), r"is not UTF-8 \(line 1, byte 3\)"),
    "Latin-1 in a later line": ("{# a #}\n\né".encode("latin-1"), r"is not UTF-8 \(line 3, byte 9\)"),
    "UTF-16 without a mark": ("{# é #}".encode("utf-16-le"), "is UTF-16 text without a byte order mark"),
    "UTF-16 BE without a mark": ("{# é #}".encode("utf-16-be"), "is UTF-16 text without a byte order mark"),
    "UTF-32": ("{# é #}".encode("utf-32"), "is UTF-32 text"),
    "half a character of UTF-16": (b"\xff\xfe{\0a", r"is not UTF-16 \(line 1, byte 4\)"),
    "half a surrogate pair of UTF-16": (b"\xff\xfe{\0\x00\xd8}\0", r"is not UTF-16 \(line 1, byte 4\)"),
}
JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
ROWS = '{"instruction": "é\u2028a\u0085", "response": "b\ufeff"}\n\n{"instruction": "c", "response": "d"}\n'


@pytest.fixture(params=SAVED)
def save(request):
    return SAVED[request.param]


@pytest.fixture
def folder(pocket_qwen3, sources, tmp_path) -> Path:
    return folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")


def test_text_is_the_same_however_it_was_saved(save, tmp_path):
    text = "é\u2028 𝄞\n\nb\ufeff\n"
    (tmp_path / "x").write_bytes(save(text))
    assert read_text(tmp_path / "x") == text


@pytest.mark.parametrize("name", OTHERS)
def test_another_encoding_is_named_with_its_place(name, tmp_path):
    content, message = OTHERS[name]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_text(tmp_path / "x")
    assert caught.value.action == "save it as UTF-8"


def test_a_file_of_only_a_mark_is_empty(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf")
    assert read_text(tmp_path / "x") == ""


def test_a_text_larger_than_its_limit_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe" + b"a\0" * 50)
    with pytest.raises(CheckpointError, match="takes 102 bytes; expected at most 101"):
        read_text(tmp_path / "x", 101)


def test_json_is_the_same_however_it_was_saved(save, tmp_path):
    (tmp_path / "x.json").write_bytes(save('{"a":\n "é𝄞", "b": [1, 2]}\n'))
    assert read_object(tmp_path / "x.json") == {"a": "é𝄞", "b": [1, 2]}


@pytest.mark.parametrize("content", [b'\xef\xbb\xbf{"a" 1}', b'{"a":  1 }x', b'\xef\xbb\xbf{"a": \xe9}'])
def test_an_error_in_json_names_the_byte_of_the_file(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"byte (8|9|10)\)"):
        read_object(tmp_path / "x.json")


def test_a_folder_reads_as_the_same_checkpoint_however_its_files_were_saved(folder, save):
    with aprnb.open(folder) as before:
        expected, warnings = dict(before.metadata), before.warnings
    (folder / "chat_template.jinja").write_bytes(save(expected["chat_template"]))
    for name in JSON_FILES:
        (folder / name).write_bytes(save((folder / name).read_text("utf-8")))
    with aprnb.open(folder) as found:
        assert (dict(found.metadata), found.warnings) == (expected, warnings)


def test_a_sidecar_config_and_a_given_one_are_read_however_they_were_saved(folder, save, tmp_path):
    config = folder / "config.json"
    config.write_bytes(save(config.read_text("utf-8")))
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "alone.safetensors")
    assert aprnb.check(tmp_path / "alone.safetensors", config=config).ok


def test_a_template_file_gives_the_same_template_however_it_was_saved(folder, save, tmp_path):
    (tmp_path / "t.jinja").write_bytes(save("{{ messages }}\n{# é #}"))
    with aprnb.open(folder) as checkpoint:
        chosen = choose_tokenizer(checkpoint, checkpoint.architecture, chat_template=str(tmp_path / "t.jinja"))
    assert chosen.tokenizer.chat_template == "{{ messages }}\n{# é #}"


def test_a_recipe_is_the_same_however_it_was_saved(save, tmp_path):
    (tmp_path / "r.toml").write_bytes(save("# é\nrank = 4\nalpha = 8.0\n"))
    assert read_recipe_file(tmp_path / "r.toml") == {"rank": 4, "alpha": 8.0}


def test_a_recipe_in_another_encoding_is_named(tmp_path):
    (tmp_path / "r.toml").write_bytes("rank = 4 # é\n".encode("latin-1"))
    with pytest.raises(UsageProblem, match=r"cannot be read: .*is not UTF-8 \(line 1, byte 11\)"):
        read_recipe_file(tmp_path / "r.toml")


def test_a_recipe_as_text_may_begin_with_a_mark():
    assert read_toml("\ufeffrank = 4\r\n") == {"rank": 4}


def test_rows_are_the_same_however_they_were_saved(save, tmp_path):
    (tmp_path / "r.jsonl").write_bytes(save(ROWS))
    found = read_rows(tmp_path / "r.jsonl")
    assert [row.origin for row in found.rows] == ["r.jsonl line 1", "r.jsonl line 3"]
    assert [row.messages for row in found.rows] == [row.messages for row in read_rows(ROWS).rows]
    assert found.rows[0].messages[0].content == "é\u2028a\u0085"


@pytest.mark.parametrize("name", OTHERS)
def test_rows_in_another_encoding_are_an_error_of_the_data(name, tmp_path):
    content, message = OTHERS[name]
    (tmp_path / "r.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "r.jsonl")


@pytest.mark.parametrize("text", ["\ufeff" + ROWS, "\n\ufeff " + ROWS, "\ufeff" + ROWS.replace("\n", "\r\n")])
def test_rows_as_text_may_begin_with_a_mark(text):
    assert [row.messages for row in read_rows(text).rows] == [row.messages for row in read_rows(ROWS).rows]


def test_files_with_marks_that_were_joined_are_read(tmp_path):
    line = b"\xef\xbb\xbf" + json.dumps({"instruction": "a", "response": "b"}).encode() + b"\n"
    (tmp_path / "r.jsonl").write_bytes(line * 3)
    assert len(read_rows(tmp_path / "r.jsonl").rows) == 3


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("before", ['{"é NaN": "NaN, \\" 1e999",', "{"], ids=["after texts that look like it", "first"])
def test_a_number_that_json_does_not_have_is_named_with_its_key_and_byte(tmp_path, number, before):
    """The byte is where the number begins in the file's bytes, counted here by searching behind its key."""
    path = tmp_path / "config.json"
    path.write_text(f'{before} "rms_norm_eps" : {number}, "x": [1, 2]}}', encoding="utf-8")
    raw = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        read_object(path)
    error = caught.value
    assert error.where == f"byte {raw.index(number.encode(), raw.index(b'rms_norm_eps')):,}"
    assert number in error.found
    assert error.found.endswith(", the value of rms_norm_eps")
    assert error.action == "write a number or null in its place"


def test_a_generation_config_that_is_not_read_names_the_key(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": NaN}')
    told = [text for text in aprnb.open(folder).warnings if text.startswith("generation_config.json is not read")]
    assert len(told) == 1
    assert "temperature" in told[0]
