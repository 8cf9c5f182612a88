"""Each malformed header or index is one error with its position."""

import os
import struct

import pytest

import aprnb
from aprnb_tests import apr_bytes as b

VECTOR = struct.pack("<4f", 1, 2, 3, 4)


def rejected(tmp_path, data: bytes, message: str, exit_code: int = 4) -> str:
    path = tmp_path / "file.apr"
    path.write_bytes(data)
    with pytest.raises(aprnb.AprnbError, match=message) as caught:
        aprnb.open(path, verify=True)
    assert caught.value.exit_code == exit_code
    assert len(str(caught.value).split("\n")) <= 2
    return str(caught.value)


def test_a_valid_small_file_opens(tmp_path):
    path = tmp_path / "x.apr"
    path.write_bytes(b.small_file())
    checkpoint = aprnb.open(path, verify=True)
    assert checkpoint["a"].tolist() == [1, 2, 3, 4]
    assert checkpoint.contents.checksums["footer"] == "ok"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"", "empty"),
        (b"GGUF\x09\0\0\0" + bytes(64), "GGUF version 9"),
        (b"APRN\1\0" + bytes(64), "APRN.*version 1"),
        (b"APR1" + bytes(64), "APR1"),
        (b"PK\3\4" + bytes(64), "zip"),
        (b"\x80\4\x95" + bytes(64), "pickle"),
        (b"hello, this is a text file about models\n" * 3, "text file"),
        (b"\x7fELF\2\1\1" + bytes(64), "unknown kind"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_unsupported_files_are_recognised_and_named(tmp_path, head, name):
    rejected(tmp_path, head, name)


def test_a_missing_file_is_an_error_that_names_similar_files(tmp_path):
    (tmp_path / "other.apr").write_bytes(b.small_file())
    with pytest.raises(aprnb.AprnbError, match=r"no file at .*\n.*other\.apr") as caught:
        aprnb.open(tmp_path / "mine.apr")
    assert caught.value.exit_code == 3


def test_a_directory_is_rejected(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="is a directory"):
        aprnb.open(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_a_pipe_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe.apr")
    with pytest.raises(aprnb.AprnbError, match="not a regular file"):
        aprnb.open(tmp_path / "pipe.apr")


def test_a_changed_header_byte_is_a_wrong_checksum(tmp_path):
    data = bytearray(b.small_file())
    data[9] ^= 1
    assert "byte 40" in rejected(tmp_path, bytes(data), "header checksum")


def test_a_changed_data_byte_is_a_wrong_footer(tmp_path):
    data = bytearray(b.small_file())
    data[-20] ^= 1
    rejected(tmp_path, bytes(data), "footer checksum")


@pytest.mark.parametrize("size", [3, 63, 70, 130, 200, 260, 300])
def test_a_file_cut_anywhere_names_the_first_missing_byte(tmp_path, size):
    whole = b.small_file()
    assert f"{size:,}" in rejected(
        tmp_path, whole[:size], r"ends at byte|ends inside|is of an unknown kind|is a text file"
    )


def test_a_cut_in_the_data_names_the_tensor(tmp_path):
    whole = b.small_file()
    start = len(whole) - 4 - 128
    rejected(tmp_path, whole[: start + 10], rf"byte {start + 10:,} is the first one missing of a")


def test_a_count_beyond_the_index_is_rejected_before_memory_is_taken(tmp_path):
    data = bytearray(b.small_file())
    struct.pack_into("<I", data, 8, 0xFFFFFFFF)
    rejected(tmp_path, b.with_checksum(bytes(data)), r"claims 4,294,967,295 tensors")


@pytest.mark.parametrize(("at", "what"), [(12, "metadata"), (24, "tensor index"), (32, "tensor data")])
def test_offsets_out_of_order_or_range_are_rejected(tmp_path, at, what):
    data = bytearray(b.small_file())
    struct.pack_into("<Q", data, at, 3)
    rejected(tmp_path, b.with_checksum(bytes(data)), f"{what} of")
    struct.pack_into("<Q", data, at, 2**63)
    rejected(tmp_path, b.with_checksum(bytes(data)), r"ends at byte|starts at byte")


def file_with(entries: list[bytes], data: bytes = b.pad(VECTOR), metadata: bytes = b"{}") -> bytes:
    return b.front(metadata, entries) + data + bytes(4)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([b.entry("a", 0, (4,), 0, 12)], "takes 12 bytes; expected 16"),
        ([b.entry("a", 0, (4,), 0, 0)], "takes 0 bytes; expected 16"),
        ([b.entry("a", 77, (4,), 0, 16)], "dtype code 77"),
        ([b.entry("a", 0, (1,) * 9, 0, 4)], "9 dimensions"),
        ([b.entry("a", 0, (2**40, 2**40), 0, 16)], "claims shape"),
        ([b.entry("a", 0, (4,), 2**64 - 8, 16)], "first one missing"),
        ([b.entry("a", 0, (4,), 0, 16), b.entry("a", 0, (4,), 0, 16)], "listed twice"),
        ([b.entry("a", 0, (4,), 0, 16), b.entry("b", 0, (4,), 8, 16)], "overlap"),
        ([b.entry("\udcff\udcfe", 0, (4,), 0, 16)], "not UTF-8"),
    ],
)
def test_a_false_index_is_rejected(tmp_path, entries, message):
    rejected(tmp_path, file_with(entries), message)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b"[1]", "a JSON list"),
        (b'{"a":}', "not JSON.*byte 69"),
        (b'{"a":"\xff"}', "not UTF-8.*byte 70"),
        (b'{"a":NaN}', r"not JSON \(NaN is not a JSON number\)"),
        (b'{"a":' + b"9" * 5_000 + b"}", "integer in it has over 4,300 digits"),
        (b"null", "JSON's null"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    ],
    ids=["list", "broken", "bad-utf8", "nan", "digits", "null", "deep"],
)
def test_metadata_that_is_not_an_object_is_rejected(tmp_path, metadata, message):
    rejected(tmp_path, file_with([b.entry("a", 0, (4,), 0, 16)], metadata=metadata), message.replace(".*", r"(?s:.*)"))


def test_of_a_repeated_key_the_last_value_that_is_not_null_counts(tmp_path):
    path = tmp_path / "x.apr"
    path.write_bytes(
        file_with([b.entry("a", 0, (4,), 0, 16)], metadata=b'{"hidden_size":null,"hidden_size":896,"hidden_size":null}')
    )
    checkpoint = aprnb.open(path)
    assert checkpoint.metadata["hidden_size"] == 896
    assert "hidden_size more than once" in checkpoint.warnings[0]


@pytest.mark.parametrize(("flags", "message"), [(0x0404, "encrypted"), (0x0800, "column-major")])
def test_encrypted_and_column_major_files_are_rejected(tmp_path, flags, message):
    rejected(tmp_path, b.front({}, [b.entry("a", 0, (4,), 0, 16)], flags=flags) + b.pad(VECTOR), message)


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path):
    path = tmp_path / "x.apr"
    path.write_bytes(b.small_file())
    checkpoint = aprnb.open(path)
    os.truncate(path, 100)
    with pytest.raises(aprnb.AprnbError, match="became shorter"):
        checkpoint["a"]


def test_json_that_would_fill_the_memory_is_rejected_before_it_is_parsed(tmp_path):
    """A list of a million empty lists takes 3 MB of JSON and 88 MB of memory."""
    bomb = b'{"a":[' + b",".join([b"[]"] * (1 << 20)) + b"]}"
    rejected(tmp_path, file_with([b.entry("a", 0, (4,), 0, 16)], metadata=bomb), r"holds about [\d,]+ values.*byte 64")


def test_metadata_beyond_the_usual_are_a_warning_and_beyond_the_bound_rejected(tmp_path):
    path = tmp_path / "x.apr"
    size = (16 << 20) + 1
    path.write_bytes(file_with([b.entry("a", 0, (4,), 0, 16)], metadata=b'{"a":"' + b"x" * (size - 8) + b'"}'))
    assert f"{size:,} bytes (byte 20)" in aprnb.open(path).warnings[0]
    data = bytearray(b.small_file())
    struct.pack_into("<I", data, 20, (256 << 20) + 1)
    struct.pack_into("<Q", data, 24, 1 << 30)
    struct.pack_into("<Q", data, 32, 1 << 31)
    rejected(tmp_path, b.with_checksum(bytes(data)), r"268,435,457 bytes of metadata.*byte 20")


def test_a_hundred_thousand_repeated_keys_are_eleven_warnings_within_a_second(tmp_path):
    pairs = b",".join(b'"key%d":null,"key%d":1' % (n, n) for n in range(100_000))
    path = tmp_path / "x.apr"
    path.write_bytes(file_with([b.entry("a", 0, (4,), 0, 16)], metadata=b"{" + pairs + b"}"))
    warnings = aprnb.open(path).warnings
    assert len(warnings) == 11
    assert warnings[0].startswith("metadata list key0 more than once (byte 77)")  # 64, the brace, 11 bytes and a comma
    assert "99,990 more keys" in warnings[10]


def test_metadata_that_nest_to_the_parser_s_limit_open_or_are_rejected(tmp_path):
    for depth in range(900, 1000, 3):
        nested = b'{"hidden_size":"x","a":' + b"[" * depth + b"]" * depth + b"}"
        path = tmp_path / "x.apr"
        path.write_bytes(file_with([b.entry("a", 0, (4,), 0, 16)], metadata=nested))
        try:
            assert "hidden_size is x (byte 65)" in aprnb.open(path).warnings[0]
        except aprnb.AprnbError as error:
            assert "nested too deeply" in str(error)
