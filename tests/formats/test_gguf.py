"""GGUF files: the values of their bytes are read, and false statements are errors with their byte."""

import random
import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest

import aprnb
from aprnb.formats.gguf import front as gguf_front
from aprnb.formats.gguf import values as gguf_values
from aprnb_tests.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    header,
    info,
    pad,
    pair,
    small_file,
    text,
    whole,
)


def opened(tmp_path, data, name="x.gguf"):
    path = tmp_path / name
    path.write_bytes(data)
    return aprnb.open(path)


def evidence(checkpoint):
    return {key: (value["t"], value["v"]) for key, value in checkpoint.metadata["gguf.kv"].items()}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_all_versions_are_read_and_shapes_are_row_major(tmp_path, version):
    with opened(tmp_path, small_file(version)) as checkpoint:
        assert (checkpoint.format, checkpoint.contents.version) == ("gguf", str(version))
        np.testing.assert_array_equal(checkpoint["a"], [[0, 1, 2], [3, 4, 5]])
        np.testing.assert_array_equal(checkpoint["b"], [0, 1, 2, 3])
        assert checkpoint.metadata["num_layers"] == 2


def test_every_value_type_is_read(tmp_path):
    given = {
        "u8": (U8, 255), "i8": (I8, -128), "u16": (U16, 65535), "u32": (U32, 2**32 - 1), "i32": (I32, -5),
        "u64": (U64, 2**64 - 1), "i64": (I64, -(2**63)), "f64": (F64, 0.1), "yes": (BOOL, 1), "text": (STRING, "ü\0"),
        "numbers": (ARRAY, (I32, [1, -2])), "flags": (ARRAY, (BOOL, [1, 0])), "texts": (ARRAY, (STRING, ["", "a"])),
        "nested": (ARRAY, (ARRAY, [(U8, [1]), (STRING, ["b"])])),
    }  # fmt: skip
    found = evidence(opened(tmp_path, whole([pair(key, *value) for key, value in given.items()])))
    assert found == {
        "u8": ("uint8", 255), "i8": ("int8", -128), "u16": ("uint16", 65535), "u32": ("uint32", 2**32 - 1),
        "i32": ("int32", -5), "u64": ("uint64", 2**64 - 1), "i64": ("int64", -(2**63)), "f64": ("float64", 0.1),
        "yes": ("bool", True), "text": ("string", "ü\0"), "numbers": ("array[int32]", [1, -2]),
        "flags": ("array[bool]", [True, False]), "texts": ("array[string]", ["", "a"]),
        "nested": ("array[array]", [[1], ["b"]]),
    }  # fmt: skip


def test_a_float32_is_the_shortest_number_that_reads_back_to_it(tmp_path):
    assert evidence(opened(tmp_path, whole([pair("eps", F32, 1e-6)])))["eps"] == ("float32", 1e-6)


def test_what_json_cannot_hold_is_kept_by_name(tmp_path):
    found = evidence(opened(tmp_path, whole([pair("n", F32, float("nan")), pair("i", ARRAY, (F32, [float("-inf")]))])))
    assert found == {"n": ("float32", "nan"), "i": ("array[float32]", ["-inf"])}


ONE = [info("a", (4,), 0, 0)]
MALFORMED = {
    "a key count that the file cannot hold": (header(0, 1 << 60), "key count is 1,152,921,504,606,846,976", "byte 16"),
    "a tensor count that the file cannot hold": (header(1 << 60, 0), "tensor count is", "byte 8"),
    "a string longer than the file": (
        header(0, 1) + struct.pack("<Q", 1 << 40) + bytes(20), "inside a metadata key", "bytes 32 to"),
    "an array longer than the file": (
        whole([text("k") + struct.pack("<IIQ", ARRAY, U8, 1 << 62)]), "element count of k is", "byte 41"),
    "an array of strings longer than the file": (
        whole([text("k") + struct.pack("<IIQ", ARRAY, STRING, 1 << 30)]), "element count of k is", "byte 41"),
    "an unknown value type": (whole([text("key") + struct.pack("<I", 13)]) + bytes(8), "value type 13", "byte 35"),
    "an unknown element type": (
        whole([text("k") + struct.pack("<IIQ", ARRAY, 77, 0)]), "value type 77", "byte 37"),
    "a truth value of 2": (whole([pair("key", BOOL, 2)]), "boolean 2", "byte 39"),
    "a key twice": (whole([pair("key", U8, 1), pair("key", U8, 1)]), "'key' appears twice", "byte 40"),
    "a key that is not UTF-8": (whole([pair(b"a\xff", U32, 1)]), "not UTF-8", "byte 33"),
    "a text that is not UTF-8": (whole([pair("k", STRING, b"ok\xc3")]), "k is not UTF-8", "byte 47"),
    "arrays nested too deep": (
        whole([text("k") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 9 + struct.pack("<IQ", U8, 0)]),
        "more than 4 deep", "byte 85"),
    "a tensor twice": (whole(infos=[info("a", (4,), 0, 0), info("a", (4,), 0, 32)], data=bytes(64)),
                       "'a' appears twice", "byte 57"),
    "five dimensions": (whole(infos=[info("a", (1,) * 5, 0, 0)], data=bytes(32)), "has 5 dimensions", "byte 33"),
    "2^32 dimensions": (
        header(1, 0) + text("a") + struct.pack("<I", 2**32 - 1) + bytes(64), "4,294,967,295 dimensions", "byte 33"),
    "dimensions whose product overflows": (
        whole(infos=[info("a", (1 << 40, 1 << 40), 0, 0)], data=bytes(32)), "dimensions", "byte 37"),
    "an unknown element type of a tensor": (
        whole(infos=[info("a", (4,), 99, 0)], data=bytes(32)), "element type 99", "byte 45"),
    "a removed element type": (
        whole(infos=[info("a", (4,), 4, 0)], data=bytes(32)), "element type 4 (Q4_2, which", "byte 45"),
    "rows of part of a block": (whole(infos=[info("a", (40,), 8, 0)], data=bytes(96)), "rows of 40", "byte 45"),
    "an offset off its alignment": (
        whole(infos=[info("a", (4,), 0, 16)], data=bytes(64)), "offset 16; expected a multiple of 32", "byte 49"),
    "an offset beyond any file": (
        whole(infos=[info("a", (4,), 0, 1 << 63)], data=bytes(64)), "inside tensor 'a'", "byte 49"),
    "overlapping tensors": (
        whole(infos=[info("a", (16,), 0, 0), info("b", (16,), 0, 32)], data=bytes(96)),
        "'a' and 'b' overlap", "byte 82"),
    "an alignment of 24": (
        whole([pair("general.alignment", U32, 24)], ONE, bytes(32)), "general.alignment is 24", "byte"),
    "an alignment of 0": (whole([pair("general.alignment", U32, 0)], ONE, bytes(32)), "alignment is 0", "byte"),
    "an alignment in words": (
        whole([pair("general.alignment", STRING, "32")], ONE, bytes(32)), "alignment is 32", "byte"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_false_statement_is_rejected_with_its_byte(tmp_path, case):
    data, words, where = MALFORMED[case]
    started = time.perf_counter()
    with pytest.raises(aprnb.AprnbError) as caught:
        opened(tmp_path, data)
    assert words in str(caught.value) and where in str(caught.value)
    assert caught.value.exit_code == 4
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("at", range(4, len(small_file()) - 1, 3))
def test_a_truncated_file_is_an_error_that_names_its_end(tmp_path, at):
    with pytest.raises(aprnb.AprnbError, match=f"ends at byte {at}, inside|what the file can hold") as caught:
        opened(tmp_path, small_file()[:at])
    assert caught.value.exit_code == 4


def test_future_versions_and_big_endian_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="GGUF version 4"):
        opened(tmp_path, header(0, 0, version=4))
    with pytest.raises(aprnb.AprnbError, match=r"big-endian GGUF file \(version 3\)"):
        opened(tmp_path, b"GGUF" + struct.pack(">IQQ", 3, 0, 0))


def test_texts_that_would_fill_the_memory_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_front, "MAX_TEXTS_BYTES", 100)
    for texts in (["Ā"] * 2000, [""] * 2000):
        with pytest.raises(aprnb.AprnbError, match=r"texts take too much memory \(at k.*\); expected at most"):
            opened(tmp_path, whole([pair("k", ARRAY, (STRING, texts))]))


def test_absurdly_large_lists_and_keys_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_values, "MAX_NUMBERS", 3)
    monkeypatch.setattr(gguf_values, "MAX_NESTED", 2)
    with pytest.raises(aprnb.AprnbError, match="holds 4 numbers; expected at most 3"):
        opened(tmp_path, whole([pair("k", ARRAY, (I32, [1, 2, 3, 4]))]))
    with pytest.raises(aprnb.AprnbError, match="holds 3 arrays; expected at most 2"):
        opened(tmp_path, whole([pair("k", ARRAY, (ARRAY, [(U8, [])] * 3))]))
    with pytest.raises(aprnb.AprnbError, match="key count is 65,537; expected at most 65,536"):
        opened(tmp_path, header(0, 65537) + bytes(13 * 65537))
    with pytest.raises(aprnb.AprnbError, match="tensor count is 65,537; expected at most 65,536"):
        opened(tmp_path, header(65537, 0) + bytes(24 * 65537))


def test_opening_takes_twice_the_file_and_64_mib_at_most(tmp_path):
    """A very large vocabulary with a non-Latin-1 character in each token."""
    data = whole([pair("k", ARRAY, (STRING, ["Ā" + chr(0x100 + at % 5000) for at in range(500_000)]))])
    (tmp_path / "x.gguf").write_bytes(data)
    tracemalloc.start()
    checkpoint = aprnb.open(tmp_path / "x.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(checkpoint) == 0 and peak <= 2 * len(data) + (64 << 20)


def test_a_text_too_long_to_keep_is_passed_over_and_named(tmp_path):
    long = "x" * (gguf_values.MAX_TEXT_BYTES + 1)
    checkpoint = opened(tmp_path, whole([pair("long", STRING, long), pair("after", U8, 7)]))
    assert evidence(checkpoint) == {"after": ("uint8", 7)}
    assert "long" in checkpoint.warnings[0]


@pytest.mark.parametrize("strange", [None, "", "\0", "a\0b", "é" * 127, "y" * 255, "y" * 256, "z" * 70000, "\1"])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_long_lists_are_read_the_same_however_their_strings_are(tmp_path, strange, place):
    """Lists of short strings have a faster path; every kind of string that leaves it is once at each end."""
    words = [chr(random.Random(at).randrange(0x20, 0x3000)) * (1 + at % 9) for at in range(1000)]
    if strange is not None:
        words[place] = strange
    path = tmp_path / "x.gguf"
    path.write_bytes(whole([pair("tokenizer.ggml.tokens", ARRAY, (STRING, words)), pair("after", U8, 7)]))
    if strange is not None and len(strange) > gguf_front.MAX_KEY_BYTES:
        with pytest.raises(aprnb.AprnbError, match=rf"tokens\[{place}\] is too long"):
            aprnb.open(path)
        return
    checkpoint = aprnb.open(path)
    assert checkpoint.metadata["tokenizer.vocabulary"] == words
    assert evidence(checkpoint) == {"tokenizer.ggml.tokens": ("array[string]", words), "after": ("uint8", 7)}


def test_a_long_list_with_bad_utf8_names_the_string_and_its_byte(tmp_path):
    words = [b"word"] * 400
    words[300] = b"a\xffb"
    at = 24 + 9 + 4 + 4 + 8 + 300 * 12 + 8 + 1
    with pytest.raises(aprnb.AprnbError, match=rf"k\[300\] is not UTF-8 \(byte {at:,}\)"):
        opened(tmp_path, whole([pair("k", ARRAY, (STRING, words))]))


def test_a_long_list_beyond_the_end_of_the_file_is_truncated(tmp_path):
    data = whole([pair("k", ARRAY, (STRING, ["word"] * 400))])
    with pytest.raises(aprnb.AprnbError, match=r"inside k\[399\]"):
        opened(tmp_path, data[:-1])


def test_another_alignment_moves_the_data(tmp_path):
    data = whole([pair("general.alignment", U32, 512)], ONE, struct.pack("<4f", 1, 2, 3, 4), alignment=512)
    np.testing.assert_array_equal(opened(tmp_path, data)["a"], [1, 2, 3, 4])


def test_what_the_gguf_package_writes_is_what_we_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen2")
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer.add_block_count(3)
    writer.add_rope_freq_base(1e6)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("f32", values)
    writer.add_tensor("f16", values.astype(np.float16))
    writer.add_tensor("cube", values.reshape(2, 2, 64))
    for kind in (gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0):
        writer.add_tensor(kind.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    with aprnb.open(tmp_path / "x.gguf") as checkpoint:
        assert list(checkpoint) == [tensor.name for tensor in reader.tensors]
        for tensor in reader.tensors:
            entry = checkpoint.tensors[tensor.name]
            assert entry.shape == tuple(map(int, tensor.shape[::-1]))
            assert checkpoint.contents.files[0].data_start + entry.offset == tensor.data_offset
            assert checkpoint.raw(tensor.name) == tensor.data.tobytes()
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(checkpoint[tensor.name], expected.reshape(entry.shape))
        assert (checkpoint.metadata["num_layers"], checkpoint.metadata["rope_theta"]) == (3, 1e6)
        assert checkpoint.metadata["tokenizer.vocabulary"] == ["a", "b"]


def part(number, count, names, total=None, first=()):
    pairs = [*first, pair("split.no", U16, number), pair("split.count", U16, count)]
    pairs += [pair("split.tensors.count", I32, total)] if total is not None else []
    infos = [info(name, (4,), 0, 32 * at) for at, name in enumerate(names)]
    return whole(pairs, infos, b"".join(pad(struct.pack("<4f", *[ord(name)] * 4)) for name in names))


def split(folder, parts=(("",), ("a", "b"), ("c",)), total=3):
    """A model in three parts, the first without tensors, as llama.cpp's `--no-tensor-first-split` leaves it."""
    for number, names in enumerate(parts):
        first = [pair("general.architecture", STRING, "llama")] if number == 0 else []
        data = part(number, len(parts), [name for name in names if name], total, first)
        (folder / f"m-{number + 1:05d}-of-{len(parts):05d}.gguf").write_bytes(data)
    return folder / f"m-00001-of-{len(parts):05d}.gguf"


def test_a_split_model_opens_as_one(tmp_path):
    with aprnb.open(split(tmp_path)) as checkpoint:
        assert list(checkpoint) == ["a", "b", "c"]
        assert [checkpoint[name][0] for name in checkpoint] == [97, 98, 99]
        assert [entry.file for entry in checkpoint.tensors.values()] == [1, 1, 2]
        assert checkpoint.metadata["architecture"] == "llama"


def test_a_missing_part_is_named(tmp_path):
    first = split(tmp_path)
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(aprnb.AprnbError, match=r"m-00003-of-00003\.gguf missing") as caught:
        aprnb.open(first)
    assert caught.value.exit_code == 3


def test_a_later_part_alone_names_the_first(tmp_path):
    split(tmp_path)
    with pytest.raises(aprnb.AprnbError, match=r"part 2 of 3\n→ open the first part, m-00001-of-00003\.gguf"):
        aprnb.open(tmp_path / "m-00002-of-00003.gguf")


def test_a_renamed_part_is_rejected(tmp_path):
    other = split(tmp_path).rename(tmp_path / "other.gguf")
    with pytest.raises(aprnb.AprnbError, match="part 1 of a model split in 3"):
        aprnb.open(other)


def test_a_part_of_another_model_is_rejected(tmp_path):
    first = split(tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").write_bytes(part(2, 3, ["a", "b"]))
    with pytest.raises(aprnb.AprnbError, match="does not say that it is part 2 of 3"):
        aprnb.open(first)


def test_a_tensor_in_two_parts_is_rejected(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="'a' is in .*00003"):
        aprnb.open(split(tmp_path, (("a",), ("b",), ("a",))))


def test_parts_that_hold_too_few_tensors_are_rejected(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="hold 3 tensors; expected 4"):
        aprnb.open(split(tmp_path, total=4))
