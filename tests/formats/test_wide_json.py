"""JSON whose text Python would keep at four bytes a letter is read escaped, to the same values and the same bytes."""

import json

import pytest

from aprnb.errors import CheckpointError
from aprnb.formats import json_memory, json_text
from aprnb.formats.metadata import read_metadata

VALUE = {"a": ["é", "你好 \U0001f600", "x" * 3000, '\n"\\'], "naïve \U0001f600": {"b": 1.5}, "c": "ß" * 2000}


def read(raw: bytes):
    return read_metadata(lambda: raw, "x.apr", 64, len(raw))


@pytest.fixture
def wide(monkeypatch):
    """Every text beyond Latin-1 is escaped, in parts that cut characters in two."""
    monkeypatch.setattr(json_memory, "_WIDE_BYTES", -1)
    monkeypatch.setattr(json_text, "_CHUNK_BYTES", 7)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_values_are_the_same(wide, ascii_only):
    assert read(json.dumps(VALUE, ensure_ascii=ascii_only).encode()) == (VALUE, [])


@pytest.mark.parametrize("front", ["", "é", "\U0001f600 and 你好", "x" * 20])
def test_an_error_names_the_byte_of_the_file(wide, monkeypatch, front):
    raw = f'{{"a": "{front}", "b": ?, "c": "\U0001f600"}}'.encode()
    with pytest.raises(CheckpointError) as caught:
        read(raw)
    assert caught.value.where == f"byte {64 + raw.index(b'?'):,}"
    broken = f'{{"a": "{front}\U0001f600'.encode() + b'\xff"}'
    with pytest.raises(CheckpointError, match="not UTF-8") as caught:
        read(broken)
    assert caught.value.where == f"byte {64 + broken.index(0xFF):,}"


def test_only_wide_texts_are_escaped():
    assert not json_memory._is_wide(b"x" * (30 << 20))
    assert not json_memory._is_wide("ÿ".encode() + b"x" * (30 << 20))
    assert not json_memory._is_wide("Ā".encode() + b"x" * (20 << 20))
    assert json_memory._is_wide("Ā".encode() + b"x" * (30 << 20))
    assert json_memory._is_wide("\U0001f600".encode() + b"x" * (9 << 20))
