"""Safetensors files written byte by byte: valid ones, and every kind of malformed header."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import aprnb
from aprnb.errors import AprnbError, CheckpointError, TruncatedFile
from aprnb.formats.dtypes import BY_NAME, LISTED
from aprnb_tests.safetensors_bytes import LFS_POINTER, file_of, folder_of, info, packed, small_file, weights_of


def opened(tmp_path: Path, data: bytes, name: str = "x.safetensors") -> aprnb.Checkpoint:
    path = tmp_path / name
    path.write_bytes(data)
    return aprnb.open(path)


def test_tensors_are_read_as_the_safetensors_package_wrote_them(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    random = np.random.default_rng(0)
    arrays = {
        "f32": random.standard_normal((3, 4), np.float32),
        "f16": random.standard_normal((5,), np.float32).astype(np.float16),
        "empty": np.zeros((0, 7), np.float32),
        "scalar": np.array(2.5, np.float32),
        "whole": np.arange(6, dtype=np.int64).reshape(2, 3),
    }
    numpy.save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "np"})
    with aprnb.open(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.format == "safetensors"
        assert checkpoint.metadata["source_metadata"] == {"format": "np"}
        assert set(checkpoint) == set(arrays)
        for name, array in arrays.items():
            assert np.array_equal(checkpoint[name], array.astype(np.float32))


def test_the_first_bytes_tell_not_the_name(tmp_path):
    assert opened(tmp_path, small_file(), "weights.bin").format == "safetensors"


def every_dtype() -> list[str]:
    """The dtypes of the installed safetensors package, which lists them for a header with an unknown one."""
    rust = pytest.importorskip("safetensors")
    with pytest.raises(rust.SafetensorError) as caught:
        rust.deserialize(file_of({"a": info("X", [1], 0, 1)}, bytes(1)))
    return re.findall(r"`(\w+)`", str(caught.value).partition("expected one of")[2])


def test_every_dtype_of_the_format_is_listed_with_its_shape_as_the_safetensors_package_reads_it(tmp_path):
    rust = pytest.importorskip("safetensors")
    names = every_dtype()
    assert len(names) >= 22
    for name in names:
        bits = 32 * BY_NAME[name].block_bytes * 8 // BY_NAME[name].block_elements
        data = packed({"a": ("F32", [1], bytes(4)), "z": (name, [2, 16], bytes(bits // 8))})
        [read] = [entry for key, entry in rust.deserialize(data) if key == "z"]
        entry = opened(tmp_path, data).tensors["z"]
        assert (entry.dtype.name, list(entry.shape), entry.size_bytes) == (read["dtype"], read["shape"], bits // 8)


@pytest.mark.parametrize("dtype", LISTED, ids=lambda dtype: dtype.name)
def test_a_type_without_a_decoder_hides_no_other_tensor(dtype, tmp_path):
    size = 8 * dtype.block_bytes // dtype.block_elements
    data = packed({"a": ("F32", [1], bytes(4)), "z": (dtype.name, [8], bytes(range(size)))})
    checkpoint = opened(tmp_path, data)
    assert checkpoint["a"] == 0
    assert checkpoint.raw("z") == bytes(range(size))
    with pytest.raises(CheckpointError, match=f"element type {dtype.name} has no decoder"):
        checkpoint["z"]
    report = aprnb.inspect(checkpoint, stats=True)
    assert [row.name for row in report.statistics.rows] == ["a"]
    assert report.to_json()["statistics"]["not_decoded"] == {"z": f"element type {dtype.name} has no decoder in aprnb"}
    assert f"{dtype.name} has no decoder in aprnb: z" in report.to_html()


def test_elements_of_less_than_a_byte_end_with_a_byte(tmp_path):
    with pytest.raises(CheckpointError, match="3 elements in F4; expected a multiple of 2"):
        opened(tmp_path, file_of({"z": info("F4", [3], 0, 2)}, bytes(2)))


def test_weights_of_a_type_without_a_decoder_do_not_match_a_model(pocket_qwen3, sources, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "hf")
    weights = {
        name: ("F4", shape, bytes(len(raw) // 4)) if "up_proj" in name else (dtype, shape, raw)
        for name, (dtype, shape, raw) in weights_of(pocket_qwen3).items()
    }
    (folder / "model.safetensors").write_bytes(packed(weights))
    violations = aprnb.check(folder).violations
    assert {(violation.kind, violation.found) for violation in violations} == {("dtype", "F4")}


B = info("BF16", [2], 16, 20)
MALFORMED = {
    "a header beyond the format's limit": ((100_000_001).to_bytes(8, "little") + b"{}", "header of 100,000,001"),
    "a header beyond the file": ((500).to_bytes(8, "little") + b"{}", "inside the header"),
    "a header that is no JSON": (file_of(b'{"a":'), "not JSON"),
    "a header that is not UTF-8": (file_of(b'{"a\xff":1}'), "not UTF-8"),
    "a constant that JSON has not": (file_of(b'{"a":NaN}'), "NaN is not a JSON number"),
    "a header nested too deeply": (file_of(b'{"a":' + b"[" * 100_000), "not JSON|nested too deeply"),
    "a name twice": (file_of(b'{"a":1,"a":2}'), "names 'a' twice"),
    "half of a surrogate pair": (file_of(b'{"\\ud800":1}'), "surrogate"),
    "an entry that is no object": (small_file(a=3), "'a' is 3; expected an object"),
    "an unknown dtype": (small_file(a=info("F99", [4], 0, 16)), "dtype 'F99'"),
    "a dtype that is no text": (small_file(a=info(["F32"], [4], 0, 16)), "dtype"),  # type: ignore[arg-type]  # what is tested
    "a size that the shape does not give": (small_file(a=info("F32", [2, 3], 0, 16)), "expected 24 for F32"),
    "a negative dimension": (small_file(a=info("F32", [-2, -2], 0, 16)), "shape"),
    "a true dimension": (small_file(a=info("F32", [True, 4], 0, 16)), "shape"),
    "dimensions whose product overflows": (small_file(a=info("F32", [1 << 40, 1 << 40], 0, 16)), "shape"),
    "255 dimensions": (small_file(a=info("F32", [1] * 255, 0, 4)), "shape"),
    "an end before the begin": (small_file(a=info("F32", [2, 2], 16, 0)), "data_offsets"),
    "three offsets": (small_file(a={"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}), "data_offsets"),
    "no offsets": (small_file(a={"dtype": "F32", "shape": [4]}), "data_offsets None"),
    "an overlap": (small_file(b=info("BF16", [2], 12, 16)), "'b' starts at data byte 12 and overlaps 'a'"),
    "a hole": (small_file(a=info("F32", [3], 0, 12)), "'b' starts at data byte 16 and leaves a gap after 'a'"),
    "bytes behind the last tensor": (small_file() + b"x", "1 bytes follow the last tensor"),
    "metadata that is no object of texts": (small_file(__metadata__={"format": 1}), "__metadata__"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_false_header_is_rejected_with_its_byte(tmp_path, case):
    data, message = MALFORMED[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(tmp_path, data)
    assert "byte" in str(caught.value)


def test_the_byte_is_that_of_the_tensors_entry_in_the_header(tmp_path):
    data = small_file(b=info("BF16", [2], 12, 16))
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, data)
    at = int(str(caught.value.where).removeprefix("byte "))
    assert data[at:].startswith(b'"b":{')


def test_a_truncated_file_is_an_error_that_names_the_first_missing_byte(tmp_path):
    whole = small_file()
    for length in range(1, len(whole)):
        with pytest.raises(TruncatedFile, match=f"ends at byte {length}"):
            opened(tmp_path, whole[:length])


BOMBS = {
    "values": b'{"a":[' + b"[]," * 2_000_000 + b"[]]}",
    "objects": b"{" + b",".join(b'"%d":{}' % number for number in range(400_000)) + b"}",
    "notes": b'{"__metadata__":{' + b",".join(b'"%d":""' % number for number in range(600_000)) + b"}}",
    "as many as are allowed": b'{"a":[' + b"[]," * 500_000 + b"[]]}",
}
OPEN = """
import sys
sys.path.insert(0, sys.argv[2])
import aprnb, aprnb.formats
from aprnb_tests.memory import forget_peak, peak
before = forget_peak()
try:
    aprnb.open(sys.argv[1])
except aprnb.AprnbError as error:
    print(peak() - before, error)
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_of_many_small_things_takes_little_memory(tmp_path, bomb):
    """Twice the file and 64 MB; parsed, the first would take 280 MB and the next two 140 each."""
    data = file_of(BOMBS[bomb])
    (tmp_path / "x.safetensors").write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "x.safetensors"), str(Path(__file__).parents[1])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    used, _, message = run.stdout.partition(" ")
    assert "byte 8" in message or "byte 9" in message, run.stderr
    assert int(used) <= 2 * len(data) + (64 << 20)


def test_31337_tensors_open_at_once(tmp_path):
    data = packed({f"model.layers.{n // 100}.part.{n % 100}.weight": ("F32", [1], b"abcd") for n in range(31_337)})
    (tmp_path / "x.safetensors").write_bytes(data)
    took = []
    for _ in range(3):
        start = time.process_time()
        with aprnb.open(tmp_path / "x.safetensors") as checkpoint:
            took.append(time.process_time() - start)
            assert len(checkpoint) == 31_337
    assert min(took) <= 1, "0.3 s of an idle processor"


def test_a_git_lfs_pointer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="Git LFS"):
        opened(tmp_path, LFS_POINTER)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_folder_that_git_cloned_without_lfs_names_the_pointer(name, sources, pocket_qwen3, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "m")
    (folder / name).write_bytes(LFS_POINTER)
    with pytest.raises(AprnbError, match=rf"{name} is a Git LFS pointer(.|\n)*git lfs pull"):
        aprnb.convert(folder, tmp_path / "x.gguf")


def test_a_tokenizer_that_git_did_not_fetch_is_named_among_the_warnings(sources, pocket_qwen3, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "m")
    (folder / "tokenizer.json").write_bytes(LFS_POINTER)
    assert any("Git LFS pointer" in text for text in aprnb.convert(folder, tmp_path / "x.gguf").warnings)


def test_the_header_may_end_in_spaces(tmp_path):
    text = json.dumps({"a": info("F32", [1], 0, 4)}).encode() + b"     "
    assert opened(tmp_path, file_of(text, b"\0\0\x80?"))["a"].tolist() == [1.0]


def test_a_repeated_last_key_is_found_at_once(tmp_path):
    """Counting each name again took 74 seconds for 800 kB."""
    keys = b",".join(b'"k%d":0' % number for number in range(60_000))
    (tmp_path / "x.safetensors").write_bytes(file_of(b"{" + keys + b',"k59999":0}'))
    began = time.process_time()
    with pytest.raises(CheckpointError, match="k59999' twice"):
        aprnb.open(tmp_path / "x.safetensors")
    assert time.process_time() - began < 1
