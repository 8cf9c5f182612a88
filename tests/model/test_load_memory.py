"""Loading to NF4 keeps one tensor in memory: the peak of a whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aprnb_tests.large import LARGEST_BYTES, large_qwen3

LOAD = """
import sys
sys.path.insert(0, sys.argv[2])
import torch, bitsandbytes, aprnb
from aprnb.model.build import build_model
from aprnb.model.device import place
import transformers.models.qwen3.modeling_qwen3
from aprnb_tests.memory import forget_peak, peak
from aprnb_tests.tiny import tiny_nf4_model
tiny_nf4_model()  # what a first load brings along is not the file's
checkpoint = aprnb.open(sys.argv[1])
report = aprnb.check(checkpoint)
before = forget_peak()
model = build_model(checkpoint, report, place("cpu", "bfloat16", "nf4"))
print(peak() - before, model.get_memory_footprint())
"""


@pytest.mark.parametrize("dtype", [None, "q4_k"])
def test_the_peak_is_the_module_and_one_tensor(tmp_path, dtype):
    import aprnb

    path = large_qwen3(tmp_path / "large.apr")
    if dtype:
        path = aprnb.convert(path, tmp_path / "quantised.apr", dtype=dtype).path
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(path), str(Path(__file__).parents[1])],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    grown, final = map(int, run.stdout.split())
    assert grown <= final + LARGEST_BYTES
