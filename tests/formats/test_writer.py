"""What we write: byte-identical to the tool's golden file, whole or not there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aprnb
from aprnb.errors import OutputError
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.apr.metadata_text import encode_metadata
from aprnb.formats.apr.writer import Layout
from aprnb.formats.codecs import encode
from aprnb.formats.dtypes import BY_NAME, F32
from aprnb_tests.rewrite import rewrite as rewrite_unchanged

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
LARGER = Path(os.environ["APRNB_FIXTURES"]) if os.environ.get("APRNB_FIXTURES") else None


def rewrite(source: Path, target: Path, **options) -> None:
    checkpoint = aprnb.open(source)
    tensors = [TensorSource(n, e.dtype, e.shape, lambda n=n: checkpoint.raw(n)) for n, e in checkpoint.tensors.items()]
    write_apr(target, checkpoint.metadata, tensors, **options)


@pytest.mark.parametrize("name", ["golden_v2_skip_none", "golden_v2"])
def test_the_golden_files_come_out_byte_for_byte(foreign, tmp_path, name):
    rewrite(foreign / f"{name}.apr", tmp_path / "out.apr")
    assert (tmp_path / "out.apr").read_bytes() == (foreign / f"{name}.apr").read_bytes()


def test_equal_input_gives_equal_bytes_in_any_order(tmp_path):
    one = TensorSource("b", F32, (2,), lambda: bytes(8))
    two = TensorSource("a", F32, (1,), lambda: bytes(4))
    write_apr(tmp_path / "1.apr", {"z": 1, "model_type": "m", "a": 2}, [one, two])
    write_apr(tmp_path / "2.apr", {"a": 2, "model_type": "m", "z": 1}, [two, one])
    assert (tmp_path / "1.apr").read_bytes() == (tmp_path / "2.apr").read_bytes()
    assert aprnb.open(tmp_path / "1.apr", verify=True).contents.checksums["footer"] == "ok"


def test_nothing_is_overwritten_without_force(tmp_path):
    target = tmp_path / "x.apr"
    target.write_bytes(b"precious")
    with pytest.raises(aprnb.AprnbError, match="exists") as caught:
        write_apr(target, {}, [])
    assert caught.value.exit_code == 2
    assert target.read_bytes() == b"precious"
    write_apr(target, {}, [TensorSource("a", F32, (1,), lambda: bytes(4))], force=True)
    assert aprnb.open(target)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="no folder") as caught:
        write_apr(tmp_path / "no" / "x.apr", {}, [])
    assert caught.value.exit_code == 3


def test_a_failure_half_way_leaves_nothing_behind(tmp_path):
    def fail() -> bytes:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        write_apr(
            tmp_path / "x.apr", {}, [TensorSource("a", F32, (1,), lambda: bytes(4)), TensorSource("b", F32, (1,), fail)]
        )
    assert list(tmp_path.iterdir()) == []


def test_no_space_left_is_reported_and_leaves_no_file(tmp_path):
    """The kernel's own error: a process that may not write files beyond 64 KiB."""
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from aprnb.formats import TensorSource, write_apr; from aprnb.formats.dtypes import F32\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: write_apr(Path(sys.argv[1]), {}, [TensorSource('a', F32, (1 << 20,), lambda: bytes(4 << 20))])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.apr")], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(
        f"NoSpace the size of a file is limited here: no space left to write {tmp_path / 'x.apr'}\n→ raise the limit"
    )
    assert not list(tmp_path.iterdir())


def test_a_tensor_of_the_wrong_size_is_rejected(tmp_path):
    with pytest.raises(aprnb.AprnbError, match="gave 3 bytes; expected 4"):
        write_apr(tmp_path / "x.apr", {}, [TensorSource("a", F32, (1,), lambda: bytes(3))])


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_float_encoders_round_to_nearest_even_like_torch(name):
    import torch

    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32) * np.float32(3e-3)
    expected = torch.from_numpy(values).to(dtype).view(torch.int32 if name == "F32" else torch.int16).numpy().tobytes()
    assert encode(values, BY_NAME[name]) == expected


REAL = sorted(
    {path for place in (DATA / "real", ROOT / "notebooks", DATA / "foreign") for path in place.glob("*.apr")}
    | set(LARGER.rglob("*.apr") if LARGER else ())
)
VERSION_1 = {"golden_v1", "mnist_784x2"}


@pytest.mark.parametrize("path", [path for path in REAL if path.stem not in VERSION_1], ids=lambda path: path.stem)
def test_every_real_file_comes_out_byte_for_byte_when_nothing_changes(path, tmp_path):
    with aprnb.open(path) as checkpoint:
        rewrite_unchanged(checkpoint, tmp_path / "out.apr")
    assert (tmp_path / "out.apr").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "at least one"),
        ([TensorSource("a", F32, (1,), lambda: bytes(4))] * 2, "given twice"),
        ([TensorSource("a", F32, (1,) * 9, lambda: bytes(4))], "8 dimensions"),
        ([TensorSource("é" * 129, F32, (1,), lambda: bytes(4))], "takes 258 bytes"),
        ([TensorSource("", F32, (1,), lambda: bytes(4))], "takes 0 bytes"),
        ([TensorSource("a", BY_NAME["Q4_0"], (32,), lambda: bytes(18))], "Q4_0, which the format has no code for"),
    ],
    ids=["none", "twice", "dims", "long", "nameless", "code"],
)
def test_what_readers_of_the_format_reject_is_not_written(tmp_path, tensors, message):
    with pytest.raises(aprnb.AprnbError, match=message):
        write_apr(tmp_path / "x.apr", {}, tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"hidden_size": "896"}, "hidden_size is '896'; expected a whole number"),
        ({"model_type": None}, "model_type is 'None'; expected text"),
        ({"hidden_size": 896, "d_model": 896}, "spell hidden_size in 2 ways"),
        ({"loss": float("nan")}, "finite"),
    ],
)
def test_metadata_that_make_readers_reject_or_forget_are_not_written(tmp_path, metadata, message):
    with pytest.raises(aprnb.AprnbError, match=message):
        write_apr(tmp_path / "x.apr", metadata, [TensorSource("a", F32, (1,), lambda: bytes(4))])


def test_a_tensor_in_parts_is_the_same_file(tmp_path):
    whole, parts = bytes(range(16)), [bytes(range(5)), bytes(range(5, 16))]
    write_apr(tmp_path / "1.apr", {}, [TensorSource("a", F32, (4,), lambda: whole)])
    write_apr(tmp_path / "2.apr", {}, [TensorSource("a", F32, (4,), lambda: iter(parts))])
    assert (tmp_path / "1.apr").read_bytes() == (tmp_path / "2.apr").read_bytes()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # Rust's shortest notation, as the real files have it: f32 fields, then f64 elsewhere
        ({"rms_norm_eps": 1e-6}, b'"rms_norm_eps":0.000001'),
        ({"rms_norm_eps": 1e-12}, b'"rms_norm_eps":1e-12'),
        ({"rms_norm_eps": 9.999999974752427e-07}, b'"rms_norm_eps":9.999999974752427e-7'),
        ({"rope_theta": 1e7}, b'"rope_theta":10000000.0'),
        ({"z": [1e-5, {"q": 1e16, "r": 2.5e22}]}, b'"z":[0.00001,{"q":1e16,"r":2.5e22}]'),
        ({"z": -0.0}, b'"z":-0.0'),
    ],
)
def test_numbers_are_written_as_the_format_s_writers_do(value, text):
    assert text in encode_metadata(value)


def test_a_large_tensor_in_parts_takes_the_memory_of_a_part(tmp_path):
    import tracemalloc

    part, count = 1 << 20, 64
    source = TensorSource("a", F32, (part * count // 4,), lambda: (bytes(part) for _ in range(count)))
    tracemalloc.start()
    write_apr(tmp_path / "x.apr", {}, [source])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * part  # two parts alive at a time, and the small change


def test_the_order_of_arrival_is_kept_in_the_data_and_sorted_in_the_index(tmp_path):
    tensors = [TensorSource("b", F32, (2,), lambda: b"b" * 8), TensorSource("a", F32, (1,), lambda: b"a" * 4)]
    write_apr(tmp_path / "x.apr", {}, tensors, layout=Layout(data="given"))
    checkpoint = aprnb.open(tmp_path / "x.apr", strict=True, verify=True)
    assert [(name, entry.offset) for name, entry in checkpoint.tensors.items()] == [("a", 64), ("b", 0)]


def test_metadata_that_are_nested_too_deeply_are_not_written() -> None:
    deep: list[object] = []
    for _ in range(3_000):
        deep = [deep]
    with pytest.raises(OutputError, match="nested too deeply"):
        encode_metadata({"x": deep})
