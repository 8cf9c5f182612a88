"""Every tensor decoded and checked for NaN and infinity, compared with `apr validate`, on an 8B-shaped Q4_K file.

python benchmarks/values_vs_apr.py [GIGABYTES]     4.6 (Qwen3-8B's shapes) unless given; fewer layers for less

The file is real, not sparse: random codes under valid scales. `apr validate` expands every tensor (about 16 GB).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import numpy as np

from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BY_NAME
from record import HERE, apr_binary, machine, save

sys.path.insert(0, str(HERE.parent / "tests"))
from aprnb_tests import story

LAYER_GB = 0.108
OURS = """
import sys, time
import aprnb
from aprnb.inspection import tensor_statistics
began = time.perf_counter()
with aprnb.open(sys.argv[1]) as checkpoint:
    statistics = tensor_statistics(checkpoint)
assert statistics.ok and sum(row.elements for row in statistics.rows) == int(sys.argv[2])
took = time.perf_counter() - began
print(took, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024)  # ru_maxrss is inherited
"""
METHOD = (
    "One run each in a process of its own after the file was read once (so both find it in the page cache as far as "
    "it fits), twice in turn, the better of each. Ours asserts the number of elements looked at and that all are "
    "finite; the tool's document must count no NaN and no infinity. The limit is reading the file's bytes with `cat`."
)


def write(path: Path, layers: int) -> int:
    """The file; returns its elements."""
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (1 << 16, 144), np.uint8)
    pool[:, 0:4] = rng.uniform(0.0005, 0.002, (1 << 16, 2)).astype("<f2").view(np.uint8)
    blocks = pool.tobytes()

    def quantised(shape: tuple[int, ...]):
        left = prod(shape) // 256 * 144
        while left:
            part = blocks[: min(left, len(blocks))]
            left -= len(part)
            yield part

    sources = []
    for name, shape in story.shapes(layers).items():
        if len(shape) == 1:
            ones = np.ones(shape, np.float32).tobytes()
            sources.append(TensorSource(name, BY_NAME["F32"], shape, lambda ones=ones: ones))
        else:
            sources.append(TensorSource(name, BY_NAME["Q4_K"], shape, lambda shape=shape: quantised(shape)))
    write_apr(path, story.metadata(num_layers=layers), sources)
    return sum(prod(source.shape) for source in sources)


def ours(path: Path, elements: int) -> tuple[float, float]:
    run = subprocess.run(
        [sys.executable, "-c", OURS, str(path), str(elements)], capture_output=True, text=True, check=True
    )
    seconds, peak = map(float, run.stdout.split())
    return seconds, peak


def theirs(apr: str, path: Path) -> tuple[float, float]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [apr, "validate", str(path), "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, _, usage = os.wait4(process.pid, 0)
    assert said["content_total_nan"] == said["content_total_inf"] == 0, said
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def main() -> None:
    apr, wanted = apr_binary(), float(sys.argv[1]) if len(sys.argv) > 1 else 4.6
    layers = max(1, min(36, round((wanted - 0.7) / LAYER_GB)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qwen3-8b-shaped-q4k.apr"
        elements = write(path, layers)
        size = path.stat().st_size
        began = time.perf_counter()
        subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
        began = time.perf_counter()
        subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
        read = time.perf_counter() - began
        pairs = [(ours(path, elements), theirs(apr, path)) for _ in range(2)]
    mine, peer = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    document = {
        "question": f"Look at every value of a {size / 1e9:.1f} GB file ({layers} layers, {elements:,} values)",
        "method": METHOD,
        "machine": machine(),
        "seconds": {"aprnb": mine[0], "apr": peer[0], "read": read},
        "peak_bytes": {"aprnb": mine[1], "apr": peer[1]},
        "pairs": pairs,
    }
    row = [f"{mine[0]:.1f} s", f"{peer[0]:.1f} s", f"{mine[0] / peer[0]:.2f}", f"{mine[1] / 1e6:.0f} MB",
           f"{peer[1] / 1e9:.1f} GB", f"{read:.1f} s"]  # fmt: skip
    save(
        "values_vs_apr",
        document,
        ["aprnb", "apr validate", "time / its time", "peak", "its peak", "reading alone"],
        [row],
    )


if __name__ == "__main__":
    main()
