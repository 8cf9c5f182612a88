"""Every value of every tensor is looked at, whatever the tensor is stored as."""

import tracemalloc

import numpy as np
import pytest

import aprnb
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BY_NAME
from aprnb.inspection import tensor_statistics


def file_of(path, **tensors):
    sources = [TensorSource(n, BY_NAME["F32"], a.shape, lambda a=a: a.tobytes()) for n, a in tensors.items()]
    write_apr(path, {"model_type": "test"}, sources)
    return aprnb.open(path)


@pytest.mark.parametrize("name", ["pocket-qwen3", "pocket-qwen3-int8", "pocket-qwen3-int4", "pocket-qwen3-q4k"])
def test_the_statistics_are_those_of_the_decoded_arrays(real, name):
    checkpoint = aprnb.open(real(name))
    rows = {row.name: row for row in tensor_statistics(checkpoint).rows}
    for tensor, entry in checkpoint.tensors.items():
        if not entry.size_bytes:
            assert tensor not in rows
            continue
        values, row = checkpoint[tensor].astype(np.float64), rows[tensor]
        assert (row.elements, row.zeros) == (values.size, int((values == 0).sum()))
        found = [row.minimum, row.maximum, row.mean, row.std]
        np.testing.assert_allclose(
            found, [values.min(), values.max(), values.mean(), values.std()], rtol=1e-4, atol=1e-7
        )
        assert row.ok


def test_nan_and_infinite_values_are_counted_and_left_out_of_the_range(tmp_path):
    values = np.array([1, np.nan, -3, np.inf, 0, -np.inf, np.nan], np.float32)
    statistics = tensor_statistics(file_of(tmp_path / "x.apr", bad=values, good=np.ones(3, np.float32)))
    bad, good = statistics.rows
    assert (bad.nan, bad.infinite, bad.zeros, bad.minimum, bad.maximum) == (2, 2, 1, -3, 1)
    assert (good.mean, good.std, good.ok) == (1, 0, True)
    assert [row.name for row in statistics.damaged] == ["bad"]
    assert "bad: 2 NaN, 2 infinite" in str(statistics)


def test_squares_beyond_float32_are_valid(tmp_path):
    (row,) = tensor_statistics(file_of(tmp_path / "x.apr", large=np.array([3e38, -3e38], np.float32))).rows
    assert row.ok
    assert row.std == pytest.approx(3e38)


def test_a_tensor_of_nothing_but_nan_has_no_range(tmp_path):
    (row,) = tensor_statistics(file_of(tmp_path / "x.apr", gone=np.full(4, np.nan, np.float32))).rows
    assert (row.minimum, row.mean, row.nan) == (None, None, 4)


def test_a_report_with_damaged_values_is_not_ok(pocket_qwen3, tmp_path):
    base = aprnb.open(pocket_qwen3)
    sources = []
    for name, entry in base.tensors.items():
        if entry.size_bytes:
            raw = bytearray(base.raw(name))
            raw[:2] = b"\xc0\x7f" if name == "model.norm.weight" else raw[:2]  # bfloat16 NaN
            sources.append(TensorSource(name, entry.dtype, entry.shape, lambda raw=raw: bytes(raw)))
    write_apr(tmp_path / "x.apr", base.metadata, sources)
    assert aprnb.inspect(tmp_path / "x.apr").ok
    report = aprnb.inspect(tmp_path / "x.apr", stats=True)
    assert (report.ok, report.exit_code) == (False, 5)
    assert "1 tensors hold NaN or infinite values, first model.norm.weight" in str(report)


def test_memory_is_that_of_some_parts(tmp_path):
    checkpoint = file_of(tmp_path / "x.apr", large=np.ones((64, 1 << 20), np.float32))  # 256 MiB
    tracemalloc.start()
    tensor_statistics(checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20  # five parts of 2 MiB read ahead, and their squares
