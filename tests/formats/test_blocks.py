"""Block formats held against the `gguf` package's reference decoder."""

import numpy as np
import pytest

from aprnb.formats.blocks import decode
from aprnb.formats.dtypes import BY_NAME

gguf = pytest.importorskip("gguf", reason="the gguf package is part of aprnb[dev]")


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"])
def test_a_ggml_block_decodes_as_the_reference_does(name):
    dtype = BY_NAME[name]
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (64, dtype.block_bytes), dtype=np.uint8)
    # Half-precision scales stay finite: the high byte's exponent is kept below 31.
    scales = {"Q6_K": (208,), "Q4_K": (0, 2), "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(name, (0,))
    for start in scales:
        blocks[:, start : start + 2] = rng.standard_normal((64, 1)).astype("<f2").view(np.uint8)
    expected = gguf.quants.dequantize(blocks, getattr(gguf.GGMLQuantizationType, name))
    found = decode(blocks.tobytes(), dtype, (64, dtype.block_elements))
    np.testing.assert_array_max_ulp(found, expected.astype(np.float32), maxulp=1)


def test_rows_padded_to_whole_blocks_are_cut_back():
    dtype = BY_NAME["Q4_K"]
    raw = np.random.default_rng(2).integers(0, 60, 3 * 144, dtype=np.uint8).tobytes()
    padded = decode(raw, dtype, (3, 100))
    whole = decode(raw, dtype, (3, 256))
    assert padded.shape == (3, 100)
    np.testing.assert_array_equal(padded, whole[:, :100])
