"""Conversion of large files: little memory, and nothing left where it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from math import prod

import pytest

from aprnb_tests import story
from aprnb_tests.apr_bytes import sparse_file

MEASURE = """
import resource, sys
import aprnb.conversion, aprnb.conversion.to_apr, aprnb.conversion.to_huggingface, aprnb
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
aprnb.convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
ROWS, HIDDEN = 32_768, 2_048


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A qwen3 of 2 layers whose embedding takes 134 MB of 300 MB; zeros, which are read and encoded like any values."""
    path = tmp_path_factory.mktemp("large") / "large.apr"
    shapes = story.shapes(2)
    scale = {story.VOCABULARY: ROWS, story.HIDDEN: HIDDEN, story.INTERMEDIATE: 4096}
    small = {name: tuple(scale.get(size, size) for size in shape) for name, shape in shapes.items()}
    small = {
        name: (story.HEADS * 64 if "q_proj" in name else 1024 if "_proj" in name and "self_attn" in name else shape[0],
               *shape[1:]) if "self_attn" in name and len(shape) == 2 and "o_proj" not in name else shape
        for name, shape in small.items()
    }  # fmt: skip
    small = {name: (64,) if "_norm" in name and "self_attn" in name else shape for name, shape in small.items()}
    small.pop("lm_head.weight")
    figures = {"hidden_size": HIDDEN, "num_layers": 2, "num_heads": 32, "num_kv_heads": 16, "vocab_size": ROWS}
    figures |= {"intermediate_size": 4096, "head_dim": 64, "max_position_embeddings": 512, "rope_theta": 1e6}
    stated = {"architecture": "qwen3", "model_type": "qwen3", "rms_norm_eps": 1e-6, **figures}
    return sparse_file(path, stated, [(name, 30, shape, 2 * prod(shape)) for name, shape in small.items()])


@pytest.mark.parametrize(
    ("target", "dtype"), [("x.apr", ""), ("x.apr", "q4_k"), ("x.apr", "q8"), ("x.safetensors", "")]
)
def test_peak_memory_is_far_below_the_largest_tensor_and_100_mb(large, tmp_path, target, dtype):
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(large), str(tmp_path / target), dtype],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) <= 2 * ROWS * HIDDEN + 100_000_000


def started(large, target):
    code = "import sys, aprnb; aprnb.convert(sys.argv[1], sys.argv[2], dtype='q4_k')"
    run = subprocess.Popen([sys.executable, "-c", code, str(large), str(target)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 1_000_000 for path in target.parent.iterdir()):
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return run


def test_an_interrupt_leaves_nothing(large, tmp_path):
    run = started(large, tmp_path / "x.apr")
    run.send_signal(signal.SIGINT)
    run.wait(60)
    assert run.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_only_a_hidden_part(large, tmp_path):
    run = started(large, tmp_path / "x.apr")
    run.kill()
    run.wait(60)
    assert all(path.name.startswith(".") and path.name.endswith(".part") for path in tmp_path.iterdir())


@pytest.mark.parametrize("target", ["x.apr", "x.gguf", "x.safetensors", "folder"])
def test_a_full_disk_is_one_error_and_leaves_nothing(pocket_qwen3, tmp_path, target):
    code = (
        "import resource, signal, sys, aprnb\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n"
        "try:\n    aprnb.convert(sys.argv[1], sys.argv[2])\n"
        "except aprnb.AprnbError as error:\n    print(type(error).__name__, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(pocket_qwen3), str(tmp_path / target)], capture_output=True, text=True
    )
    assert run.stdout.startswith("OutputError no space left to write"), run.stdout + run.stderr[-1500:]
    assert list(tmp_path.iterdir()) == []
