"""Time, peak memory and size of each conversion of two published models.

    python benchmarks/conversions.py FOLDER     with qwen2.5-coder-0.5b-instruct.gguf and gemma-3-270m.gguf

No peer does all of these; the limit is `cp` of what is read and of what is written.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import machine, save

MODELS = ("qwen2.5-coder-0.5b-instruct", "gemma-3-270m")
WAYS = (
    ("{0}.gguf", "{0}.apr", None),
    ("{0}.apr", "{0}", None),
    ("{0}", "{0}-f16.gguf", "f16"),
    ("{0}", "{0}-q8.gguf", "q8"),
    ("{0}", "{0}-q4_k_m.gguf", "q4_k_m"),
    ("{0}-q4_k_m.gguf", "{0}-again.apr", None),
    ("{0}", "{0}-q4.apr", "q4"),
)
METHOD = (
    "One run each, a process from the start of Python to the written file, after its source was read once. Peak is the "
    "process's largest resident size. Each result is opened again and its contract checked."
)
CHILD = """
import json, sys
import aprnb
source, target, dtype = sys.argv[1:4]
aprnb.convert(source, target, dtype=dtype or None)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024)  # ru_maxrss is inherited
"""


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else path.iterdir()
    return sum(file.stat().st_size for file in files)


def copied(path: Path, scratch: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(path), str(scratch)], check=True)
    taken = time.perf_counter() - began
    subprocess.run(["rm", "-r", str(scratch)], check=True)
    return taken


def measure(source: Path, target: Path, dtype: str | None) -> dict[str, object]:
    limit = copied(source, target.with_name("copy"))
    began = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(target), dtype or ""], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    check = [sys.executable, "-m", "aprnb", "check", str(target), "--json"]
    subprocess.run(check, stdout=subprocess.DEVNULL, check=True)
    limit += copied(target, target.with_name("copy"))
    return {
        "from": source.name, "to": target.name, "dtype": dtype, "seconds": seconds, "peak_bytes": int(run.stdout),
        "bytes_before": size_of(source), "bytes_after": size_of(target), "copy_seconds": limit,
    }  # fmt: skip


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    published = Path(sys.argv[1]).resolve()
    found = []
    with tempfile.TemporaryDirectory() as name:
        for model in MODELS:
            folder = Path(name)
            os.link(published / f"{model}.gguf", folder / f"{model}.gguf")
            found += [measure(folder / a.format(model), folder / b.format(model), dtype) for a, b, dtype in WAYS]
    document = {
        "question": "Conversions of two published models",
        "method": METHOD,
        "machine": machine(),
        "conversions": found,
    }
    header = ["from", "to", "time", "cp of both", "peak memory", "size before", "size after"]
    save("conversions", document, header, [row(one) for one in found])


def row(one: dict[str, object]) -> list[str]:
    def mib(key: str) -> str:
        return f"{int(str(one[key])) / 2**20:,.0f} MiB"

    times = [f"{one['seconds']:.1f} s", f"{one['copy_seconds']:.1f} s"]
    return [str(one["from"]), str(one["to"]), *times, mib("peak_bytes"), mib("bytes_before"), mib("bytes_after")]


if __name__ == "__main__":
    main()
