"""Conversion of large files: little memory, and nothing left where it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aprnb_tests.large import LARGEST_BYTES, large_qwen3

TESTS = str(Path(__file__).parents[1])

MEASURE = """
import sys
sys.path.insert(0, sys.argv[4])
if sys.argv[2].endswith("hf"):
    import transformers, aprnb.model.build, aprnb.tokenizer.choose
import aprnb.conversion, aprnb.conversion.to_apr, aprnb.conversion.gguf.to_gguf, aprnb.conversion.to_huggingface, aprnb
from aprnb_tests.memory import forget_peak, peak
before = forget_peak()
aprnb.convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return large_qwen3(tmp_path_factory.mktemp("large") / "large.apr")


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("x.apr", ""), ("x.apr", "q4_k"), ("x.apr", "q8"), ("x.safetensors", ""), ("x.safetensors", "f32"),
        ("hf", "f16"), ("x.gguf", ""), ("x.gguf", "q4_k"), ("x.gguf", "q8"), ("x.gguf", "f16"),
    ],
)  # fmt: skip
def test_peak_memory_is_at_most_the_largest_tensor_and_100_mb(large, tmp_path, target, dtype):
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(large), str(tmp_path / target), dtype, TESTS],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) <= LARGEST_BYTES + 100_000_000


def started(large, target, dtype):
    """A conversion on the command line that has written its first megabyte."""
    command = [sys.executable, "-m", "aprnb", "convert", str(large), str(target), "--dtype", dtype]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(path.is_file() and path.stat().st_size > 1_000_000 for path in target.parent.rglob("*")):
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return run


TARGETS = [("x.apr", "q4_k"), ("x.safetensors", "f32"), ("hf", "f32")]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("target", "dtype"), TARGETS)
def test_an_interrupt_and_a_termination_leave_nothing(large, tmp_path, target, dtype, stop):
    run = started(large, tmp_path / target, dtype)
    run.send_signal(stop)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert said.startswith("Plan of ")
    assert said.endswith("\n\nInterrupted: stopped\n→ no incomplete file is left: run the command again\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("target", "dtype"), TARGETS)
def test_a_kill_leaves_only_a_hidden_part(large, tmp_path, target, dtype):
    run = started(large, tmp_path / target, dtype)
    run.kill()
    run.communicate(timeout=60)
    left = [path.name for path in tmp_path.iterdir()]
    assert left
    assert all(name.startswith(".") and name.endswith(".part") for name in left)


@pytest.mark.parametrize("target", ["x.apr", "x.gguf", "x.safetensors", "folder"])
def test_a_file_that_may_not_be_so_large_is_one_error_and_leaves_nothing(pocket_qwen3, tmp_path, target):
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
    named = {"folder": tmp_path / target / "model.safetensors", "x.gguf": "the GGUF file"}.get(
        target, tmp_path / target
    )
    start = (
        f"NoSpace the size of a file is limited here: no space left to write {named}\n→ raise the limit (`ulimit -f`)"
    )
    assert run.stdout.startswith(start), run.stdout + run.stderr[-1500:]
    assert list(tmp_path.iterdir()) == []
